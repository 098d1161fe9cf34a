//! Sealing: everything before the ciphertext, with the length of the whole known beforehand, and then the ciphertext.

mod fused;

use as2_fused::{BLOCK, FusedCbcSha256};
use zeroize::Zeroizing;

use super::MAX_RECIPIENTS;
use crate::algorithm::{Cipher, Digest, KeyTransport};
use crate::cert::Certificate;
use crate::cms::agreement;
use crate::cms::ber;
use crate::cms::oid;
use crate::crypto::{self, CipherStream, TAG_LEN};
use crate::error::{Error, ErrorKind};

/// Bytes of ciphertext in one piece of the BER form.
pub const CHUNK: u64 = 64 * 1024;

/// How lengths are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Definite lengths throughout.
    Der,
    /// Indefinite lengths, the content in pieces of [`CHUNK`] bytes.
    Ber,
}

/// What to seal, for whom, and how.
#[derive(Clone, Debug)]
pub struct EnvelopePlan<'a> {
    /// Certificates with RSA or EC keys, 1 to [`MAX_RECIPIENTS`].
    pub recipients: Vec<&'a Certificate>,
    /// Content encryption. 3DES and CCM are for receipt only and refused.
    pub cipher: Cipher,
    /// How the content key is encrypted to RSA certificates; to EC ones, the digest of ECDH, else SHA-256.
    pub key_transport: KeyTransport,
    /// Bytes that will be pushed.
    pub plain_len: u64,
    /// DER or BER.
    pub form: Form,
}

impl EnvelopePlan<'_> {
    fn check(&self) -> Result<(), Error> {
        if self.recipients.is_empty() || self.recipients.len() > MAX_RECIPIENTS {
            return Err(Error::invalid(format!("{} recipients", self.recipients.len())));
        }
        if self.cipher == Cipher::TripleDesCbc || self.cipher.is_ccm() {
            return Err(Error::invalid(format!("{} is for receipt only", self.cipher)));
        }
        if self.plain_len > ber::MAX_LENGTH / 2 {
            return Err(Error::invalid("the content is too large for one message"));
        }
        Ok(())
    }
}

/// Encrypts one message under a fresh key; the length of what it writes is known before the first byte.
pub struct Sealer {
    cipher: CipherStream,
    algorithm: Cipher,
    key: Zeroizing<Vec<u8>>,
    /// The initialization vector, then the last block of ciphertext that `cipher` made.
    chain: Vec<u8>,
    /// In place of `cipher` between [`Sealer::begin_sha256`] and [`Sealer::end_sha256`].
    fused: Option<Box<FusedCbcSha256>>,
    form: Form,
    /// Written before the first byte of ciphertext, then empty.
    prefix: Vec<u8>,
    /// Bytes of the plan, and of them those still expected.
    plain_len: u64,
    plain_left: u64,
    /// Ciphertext still to be written.
    sealed_left: u64,
    /// Ciphertext still to be written of the open piece (BER).
    chunk_left: u64,
    total: u64,
    written: u64,
    scratch: Vec<u8>,
}

impl Sealer {
    /// Draws key and nonce, and encrypts the key for each recipient.
    ///
    /// # Errors
    /// `Invalid` if the plan cannot be carried out: no recipient or too many, a certificate that cannot decrypt, a cipher for
    /// receipt only.
    pub fn new(plan: &EnvelopePlan<'_>) -> Result<Self, Error> {
        plan.check()?;
        let mut key = Zeroizing::new(vec![0; plan.cipher.key_len()]);
        let mut iv = vec![0; plan.cipher.iv_len()];
        crypto::random(&mut key)?;
        crypto::random(&mut iv)?;
        let recipients = recipient_infos(plan, &key)?;
        let gcm = plan.cipher.is_gcm();
        let mut parameters = ber::tlv(ber::OCTET_STRING, &[&iv]);
        if gcm {
            parameters = ber::tlv(ber::SEQUENCE, &[parameters, ber::integer(TAG_LEN as u8)]);
        }
        let content_info = [ber::oid(oid::DATA), ber::algorithm(oid::cipher(plan.cipher), &parameters)].concat();
        let kind = ber::oid(if gcm { oid::AUTH_ENVELOPED_DATA } else { oid::ENVELOPED_DATA });
        // Version 2 where a RecipientInfo has another version than 0 (RFC 5652 §6.1); AuthEnvelopedData always has 0 (RFC 5083 §2.1).
        let agreed = plan.recipients.iter().any(|certificate| certificate.is_ec());
        let version = if agreed && !gcm { 2 } else { 0 };
        let body = [ber::integer(version), recipients].concat();

        let sealed = plan.cipher.sealed_len(plan.plain_len);
        let mac = if gcm { ber::header_len(TAG_LEN as u64) + TAG_LEN as u64 } else { 0 };
        let (prefix, total) = match plan.form {
            Form::Der => der_prefix(&kind, &body, &content_info, sealed, mac),
            Form::Ber => ber_prefix(&kind, &body, &content_info, sealed, mac),
        };
        Ok(Sealer {
            cipher: CipherStream::encrypt(plan.cipher, &key, &iv)?,
            algorithm: plan.cipher,
            key,
            chain: iv,
            fused: None,
            form: plan.form,
            prefix,
            plain_len: plan.plain_len,
            plain_left: plan.plain_len,
            sealed_left: sealed,
            chunk_left: 0,
            total,
            written: 0,
            scratch: Vec::new(),
        })
    }

    /// Bytes of the whole message, exactly.
    #[must_use]
    pub fn content_length(&self) -> u64 {
        self.total
    }

    /// Encrypts the next bytes; what is ready of the message is appended to `out`.
    ///
    /// # Errors
    /// `UnexpectedProcessingError` if there are more bytes than planned.
    pub fn push(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        out.append(&mut self.prefix);
        self.plain_left = self
            .plain_left
            .checked_sub(plain.len() as u64)
            .ok_or_else(|| off_plan("more bytes to seal than were planned"))?;
        if self.fused.is_some() {
            self.push_fused(plain, out)?;
        } else {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            self.cipher.update(plain, &mut scratch)?;
            if let Some(block) = scratch.last_chunk::<BLOCK>() {
                self.chain.clear();
                self.chain.extend_from_slice(block);
            }
            self.emit(&scratch, out)?;
            self.scratch = scratch;
        }
        self.written += (out.len() - start) as u64;
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// `UnexpectedProcessingError` if the number of bytes pushed or written is not the planned one.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.push(&[], out)?;
        if self.plain_left != 0 {
            return Err(off_plan("fewer bytes to seal than were planned"));
        }
        let start = out.len();
        let mut last = Vec::new();
        self.cipher.finish(&mut last)?;
        self.emit(&last, out)?;
        if self.form == Form::Ber {
            out.extend_from_slice(&[0; 4]);
        }
        if self.algorithm.is_gcm() {
            out.extend(ber::tlv(ber::OCTET_STRING, &[self.cipher.tag()?]));
        }
        if self.form == Form::Ber {
            out.extend_from_slice(&[0; 6]);
        }
        self.written += (out.len() - start) as u64;
        if self.sealed_left != 0 || self.written != self.total {
            return Err(off_plan("the message has another length than was predicted"));
        }
        Ok(())
    }

    /// Writes ciphertext, in pieces if the form wants them.
    fn emit(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let rest = self.sealed_left.checked_sub(sealed.len() as u64);
        let rest = rest.ok_or_else(|| off_plan("more ciphertext than was predicted"))?;
        if self.form == Form::Der {
            out.extend_from_slice(sealed);
        }
        while self.form == Form::Ber && !sealed.is_empty() {
            if self.chunk_left == 0 {
                self.chunk_left = CHUNK.min(rest + sealed.len() as u64);
                ber::put_header(out, ber::OCTET_STRING, self.chunk_left);
            }
            let (now, later) = sealed.split_at(sealed.len().min(self.chunk_left as usize));
            out.extend_from_slice(now);
            self.chunk_left -= now.len() as u64;
            sealed = later;
        }
        self.sealed_left = rest;
        Ok(())
    }
}

/// A difference between plan and fact is a fault of ours, and the message must not go out.
pub(super) fn off_plan(detail: &str) -> Error {
    Error::new(ErrorKind::UnexpectedProcessingError, detail)
}

/// All of them in the caller's order and not in DER's: there are readers that try the first only (as2.md §4). The word for
/// the key transport is meant for the first; an RSA key beside an EC one, for which it says ECDH, has OAEP.
pub(super) fn recipient_infos(plan: &EnvelopePlan<'_>, key: &[u8]) -> Result<Vec<u8>, Error> {
    let infos = plan.recipients.iter().enumerate().map(|(n, certificate)| {
        let agreed = plan.key_transport.ecdh_digest().is_some();
        let transport = if n > 0 && agreed && !certificate.is_ec() {
            KeyTransport::OaepSha256
        } else {
            plan.key_transport
        };
        recipient_info(certificate, transport, key)
    });
    Ok(ber::tlv(ber::SET, &infos.collect::<Result<Vec<_>, _>>()?))
}

/// The RecipientInfo that the certificate's key can have.
pub(super) fn recipient_info(certificate: &Certificate, transport: KeyTransport, key: &[u8]) -> Result<Vec<u8>, Error> {
    if certificate.is_ec() {
        agreement::recipient_info(certificate, transport, key)
    } else {
        transport_info(certificate, transport, key)
    }
}

/// KeyTransRecipientInfo, version 0: issuer and serial (RFC 5652 §6.2.1).
pub(super) fn transport_info(certificate: &Certificate, transport: KeyTransport, key: &[u8]) -> Result<Vec<u8>, Error> {
    let wrapped = crypto::wrap_key(certificate.public_key(), transport, key)?;
    let serial = ber::tlv(ber::INTEGER, &[certificate.serial()]);
    let name = ber::tlv(ber::SEQUENCE, &[certificate.issuer_der(), &serial]);
    let algorithm = match transport.oaep_digest() {
        None => ber::algorithm(oid::RSA_ENCRYPTION, &[ber::NULL, 0]),
        Some(digest) => ber::algorithm(oid::RSAES_OAEP, &oaep_parameters(digest)),
    };
    Ok(ber::tlv(
        ber::SEQUENCE,
        &[ber::integer(0), name, algorithm, ber::tlv(ber::OCTET_STRING, &[wrapped])],
    ))
}

/// RSAES-OAEP-params (RFC 4055 §4.1); DER leaves out the defaults, which are SHA-1.
pub(super) fn oaep_parameters(digest: Digest) -> Vec<u8> {
    if digest == Digest::Sha1 {
        return ber::tlv(ber::SEQUENCE, &[[0u8; 0]]);
    }
    let hash = ber::algorithm(oid::digest(digest), &[ber::NULL, 0]);
    let mgf = ber::algorithm(oid::MGF1, &hash);
    ber::tlv(
        ber::SEQUENCE,
        &[ber::tlv(ber::context(0), &[hash]), ber::tlv(ber::context(1), &[mgf])],
    )
}

/// Everything before the ciphertext with definite lengths, computed from the inside out, and the length of the message.
fn der_prefix(kind: &[u8], body: &[u8], content_info: &[u8], sealed: u64, mac: u64) -> (Vec<u8>, u64) {
    let with_header = |length: u64| ber::header_len(length) + length;
    let inner = content_info.len() as u64 + with_header(sealed);
    let data = body.len() as u64 + with_header(inner) + mac;
    let explicit = with_header(data);
    let outer = kind.len() as u64 + with_header(explicit);
    let mut prefix = Vec::new();
    ber::put_header(&mut prefix, ber::SEQUENCE, outer);
    prefix.extend_from_slice(kind);
    ber::put_header(&mut prefix, ber::context(0), explicit);
    ber::put_header(&mut prefix, ber::SEQUENCE, data);
    prefix.extend_from_slice(body);
    ber::put_header(&mut prefix, ber::SEQUENCE, inner);
    prefix.extend_from_slice(content_info);
    ber::put_header(&mut prefix, 0x80, sealed);
    (prefix, with_header(outer))
}

/// The same with indefinite lengths: five elements around the pieces, ten bytes to end them.
fn ber_prefix(kind: &[u8], body: &[u8], content_info: &[u8], sealed: u64, mac: u64) -> (Vec<u8>, u64) {
    let prefix = [
        &[0x30, 0x80],
        kind,
        &[0xa0, 0x80, 0x30, 0x80],
        body,
        &[0x30, 0x80],
        content_info,
        &[0xa0, 0x80],
    ]
    .concat();
    let total = prefix.len() as u64 + ber::pieces_len(sealed, CHUNK) + 4 + mac + 6;
    (prefix, total)
}
