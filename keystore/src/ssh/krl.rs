//! OpenSSH's binary revocation list (PROTOCOL.krl), as `ssh-keygen -k` writes it. A list that is not understood to its last
//! byte is refused: what was skipped might be what somebody relies on.

use super::wire::Fields;

/// How a list begins.
pub(crate) const MAGIC: &[u8; 8] = b"SSHKRL\n\0";
const VERSION: u32 = 1;

const CERTIFICATES: u8 = 1;
const EXPLICIT_KEYS: u8 = 2;
const SHA1: u8 = 3;
const SIGNATURE: u8 = 4;
const SHA256: u8 = 5;
const EXTENSION: u8 = 255;

const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_IDS: u8 = 0x23;
const CERTIFICATES_EXTENSION: u8 = 0x39;

/// What stands in a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Krl {
    /// Keys in SSH wire form, of users and of authorities.
    pub(crate) keys: Vec<Vec<u8>>,
    /// SHA-1 of such keys.
    pub(crate) sha1: Vec<[u8; 20]>,
    /// SHA-256 of such keys.
    pub(crate) sha256: Vec<[u8; 32]>,
    /// What is revoked of certificates.
    pub(crate) certificates: Vec<Certificates>,
}

/// Certificates of one authority, or of any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// The authority's key in SSH wire form; `None` for every authority.
    pub(crate) authority: Option<Vec<u8>>,
    /// Serial numbers from one to another.
    pub(crate) serials: Vec<(u64, u64)>,
    pub(crate) bitmaps: Vec<Bitmap>,
    /// Names that authorities gave them.
    pub(crate) ids: Vec<String>,
}

/// Serial numbers by one bit each. They stay bits: as numbers a list could grow to a hundred times its size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    /// The number of the lowest bit.
    first: u64,
    /// The highest byte first, without leading zeros.
    bits: Vec<u8>,
}

impl Bitmap {
    pub(crate) fn has(&self, serial: u64) -> bool {
        let Some(at) = serial.checked_sub(self.first) else { return false };
        let from_end = usize::try_from(at / 8).ok().and_then(|byte| byte.checked_add(1));
        let byte = from_end.and_then(|n| self.bits.get(self.bits.len().checked_sub(n)?));
        byte.is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }
}

/// Whether these bytes are such a list.
pub(crate) fn is_krl(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a whole list. It takes no more memory than a few times the bytes given.
///
/// # Errors
/// What is wrong, in a few words.
pub(crate) fn parse(bytes: &[u8]) -> Result<Krl, &'static str> {
    const CUT: &str = "it is cut off";
    let mut all = Fields(bytes.strip_prefix(MAGIC).ok_or("it does not begin as one")?);
    if all.u32().ok_or(CUT)? != VERSION {
        return Err("its format is not version 1");
    }
    // Number of the list, date, flags; two texts. None of it changes what is revoked.
    all.bytes(24).ok_or(CUT)?;
    all.string().and_then(|_| all.string()).ok_or(CUT)?;
    let mut krl = Krl::default();
    while !all.is_empty() {
        let (kind, body) = (all.byte().ok_or(CUT)?, all.string().ok_or(CUT)?);
        let mut fields = Fields(body);
        match kind {
            CERTIFICATES => krl.certificates.push(certificates(&mut fields)?),
            EXPLICIT_KEYS => krl.keys.extend(strings(&mut fields)?.into_iter().map(<[u8]>::to_vec)),
            SHA1 => digests(&mut fields, &mut krl.sha1)?,
            SHA256 => digests(&mut fields, &mut krl.sha256)?,
            EXTENSION => extension(&mut fields)?,
            SIGNATURE => return Err("it is signed, which OpenSSH itself has given up; make it without"),
            _ => return Err("it has a section of an unknown type"),
        }
    }
    Ok(krl)
}

/// Strings to the end.
fn strings<'a>(fields: &mut Fields<'a>) -> Result<Vec<&'a [u8]>, &'static str> {
    let mut all = Vec::new();
    while !fields.is_empty() {
        let entry = fields.string().filter(|entry| !entry.is_empty());
        all.push(entry.ok_or("it has an empty entry, or one that is cut off")?);
    }
    Ok(all)
}

fn digests<const N: usize>(fields: &mut Fields<'_>, to: &mut Vec<[u8; N]>) -> Result<(), &'static str> {
    for entry in strings(fields)? {
        to.push(entry.try_into().map_err(|_| "it has a digest of a wrong length")?);
    }
    Ok(())
}

/// An extension may be passed over unless it says otherwise.
fn extension(fields: &mut Fields<'_>) -> Result<(), &'static str> {
    const CUT: &str = "it has an extension that is cut off";
    fields.string().ok_or(CUT)?;
    let critical = fields.byte().ok_or(CUT)?;
    fields.string().ok_or(CUT)?;
    match (critical, fields.is_empty()) {
        (0, true) => Ok(()),
        (_, true) => Err("it has an extension that must be understood and is not known"),
        _ => Err("it has more bytes than an extension takes"),
    }
}

fn certificates(fields: &mut Fields<'_>) -> Result<Certificates, &'static str> {
    const CUT: &str = "it has a list of certificates that is cut off";
    let authority = fields.string().ok_or(CUT)?;
    fields.string().ok_or(CUT)?;
    let mut list = Certificates {
        authority: (!authority.is_empty()).then(|| authority.to_vec()),
        ..Certificates::default()
    };
    while !fields.is_empty() {
        let (kind, body) = (fields.byte().ok_or(CUT)?, fields.string().ok_or(CUT)?);
        let mut part = Fields(body);
        match kind {
            SERIAL_LIST => {
                while !part.is_empty() {
                    let serial = part.u64().ok_or(CUT)?;
                    list.serials.push(range(serial, serial)?);
                }
            }
            SERIAL_RANGE => {
                list.serials.push(range(part.u64().ok_or(CUT)?, part.u64().ok_or(CUT)?)?);
            }
            SERIAL_BITMAP => {
                let (first, bits) = (part.u64().ok_or(CUT)?, part.mpint().ok_or(CUT)?);
                list.bitmaps.push(Bitmap {
                    first,
                    bits: bits.to_vec(),
                });
            }
            KEY_IDS => list
                .ids
                .extend(strings(&mut part)?.into_iter().map(|id| String::from_utf8_lossy(id).into_owned())),
            CERTIFICATES_EXTENSION => extension(&mut part)?,
            _ => return Err("it has a list of certificates of an unknown type"),
        }
        if !part.is_empty() {
            return Err("it has more bytes than a list of certificates takes");
        }
    }
    Ok(list)
}

/// Serial 0 is that of all certificates without a number, which OpenSSH does not take.
fn range(first: u64, last: u64) -> Result<(u64, u64), &'static str> {
    if first == 0 || last < first {
        return Err("it has a range of serial numbers that is empty or begins at 0");
    }
    Ok((first, last))
}
