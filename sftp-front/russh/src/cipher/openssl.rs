//! chacha20-poly1305@openssh.com with OpenSSL's ChaCha20 and Poly1305, which use the widest vectors that the processor has;
//! ring has those for the pair of RFC 8439 only. The interface is that of `ring::aead::chacha20_poly1305_openssh`.

use ::openssl::cipher::Cipher;
use ::openssl::cipher_ctx::CipherCtx;
use ::openssl::error::ErrorStack;
use openssl_sys as ffi;
use std::ptr;

pub(crate) const KEY_LEN: usize = 64;
pub(crate) const TAG_LEN: usize = 16;
const LENGTH_LEN: usize = super::PACKET_LENGTH_LEN;

/// A stream cipher that begins anew with each packet.
struct ChaCha(CipherCtx);

impl ChaCha {
    fn new(key: &[u8]) -> Result<Self, ErrorStack> {
        let mut ctx = CipherCtx::new()?;
        ctx.encrypt_init(Some(Cipher::chacha20()), Some(key), Some(&[0; 16]))?;
        Ok(Self(ctx))
    }

    /// Goes to the beginning of a packet's keystream.
    fn begin(&mut self, seqn: u32) -> Result<(), ErrorStack> {
        let mut iv = [0; 16];
        iv[12..].copy_from_slice(&seqn.to_be_bytes());
        self.0.encrypt_init(None, None, Some(&iv))
    }

    /// What follows of it.
    fn apply(&mut self, data: &mut [u8]) -> Result<(), ErrorStack> {
        let len = data.len();
        self.0.cipher_update_inplace(data, len).map(drop)
    }
}

/// A Poly1305 that takes a new key with each packet. Through `openssl` each packet would fetch the algorithm anew, which takes
/// about as long as the tag itself.
struct Poly1305(ptr::NonNull<ffi::EVP_MAC_CTX>);

// SAFETY: the context belongs to this value alone, and OpenSSL ties none to a thread.
unsafe impl Send for Poly1305 {}

impl Poly1305 {
    fn new() -> Result<Self, ErrorStack> {
        ::openssl::init();
        // SAFETY: the name ends with a zero; a null context and null properties stand for the defaults.
        let mac = unsafe { ffi::EVP_MAC_fetch(ptr::null_mut(), c"POLY1305".as_ptr(), ptr::null()) };
        if mac.is_null() {
            return Err(ErrorStack::get());
        }
        // SAFETY: the algorithm is valid; the context takes a reference of its own to it.
        let ctx = unsafe {
            let ctx = ffi::EVP_MAC_CTX_new(mac);
            ffi::EVP_MAC_free(mac);
            ctx
        };
        ptr::NonNull::new(ctx).map(Self).ok_or_else(ErrorStack::get)
    }

    /// With the first half of a block of keystream as the key.
    fn tag(&mut self, block: &[u8; 64], data: &[u8]) -> Result<[u8; TAG_LEN], ErrorStack> {
        let (key, _) = block.split_at(32);
        let (mut tag, mut len) = ([0; TAG_LEN], 0);
        let ctx = self.0.as_ptr();
        // SAFETY: the context is valid, and each pointer comes with the length of what it points to.
        let done = unsafe {
            ffi::EVP_MAC_init(ctx, key.as_ptr(), key.len(), ptr::null()) == 1
                && ffi::EVP_MAC_update(ctx, data.as_ptr(), data.len()) == 1
                && ffi::EVP_MAC_final(ctx, tag.as_mut_ptr(), &mut len, tag.len()) == 1
        };
        if done && len == TAG_LEN { Ok(tag) } else { Err(ErrorStack::get()) }
    }
}

impl Drop for Poly1305 {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { ffi::EVP_MAC_CTX_free(self.0.as_ptr()) }
    }
}

/// The two keys of a direction.
struct Keys {
    packet: ChaCha,
    length: ChaCha,
    mac: Poly1305,
}

impl Keys {
    #[allow(clippy::expect_used)] // fails for lack of memory only
    fn new(key: &[u8; KEY_LEN]) -> Self {
        let (packet, length) = key.split_at(KEY_LEN / 2);
        Self {
            packet: ChaCha::new(packet).expect("ChaCha20"),
            length: ChaCha::new(length).expect("ChaCha20"),
            mac: Poly1305::new().expect("Poly1305"),
        }
    }

    /// The first block of a packet's keystream is the key of its tag; the data have those behind it.
    fn begin(&mut self, seqn: u32) -> Result<[u8; 64], ErrorStack> {
        let mut block = [0; 64];
        self.packet.begin(seqn)?;
        self.packet.apply(&mut block)?;
        Ok(block)
    }

    fn length(&mut self, seqn: u32, length: &mut [u8]) -> Result<(), ErrorStack> {
        self.length.begin(seqn)?;
        self.length.apply(length)
    }
}

pub(crate) struct OpeningKey(Keys);

impl OpeningKey {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Keys::new(key))
    }

    pub(crate) fn decrypt_packet_length(&mut self, seqn: u32, mut length: [u8; LENGTH_LEN]) -> [u8; LENGTH_LEN] {
        // Without a keystream the length is wrong, and the packet will not open.
        let _ = self.0.length(seqn, &mut length);
        length
    }

    /// Verifies and decrypts a packet; what is behind its length field.
    pub(crate) fn open_in_place<'a>(&mut self, seqn: u32, packet: &'a mut [u8], tag: &[u8; TAG_LEN]) -> Result<&'a [u8], ErrorStack> {
        let block = self.0.begin(seqn)?;
        let expected = self.0.mac.tag(&block, packet)?;
        if !::openssl::memcmp::eq(&expected, tag) {
            return Err(ErrorStack::get());
        }
        let (_, data) = packet.split_at_mut(LENGTH_LEN);
        self.0.packet.apply(data)?;
        Ok(data)
    }
}

pub(crate) struct SealingKey(Keys);

impl SealingKey {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Keys::new(key))
    }

    #[allow(clippy::expect_used)] // fails for lack of memory only; nothing may leave unencrypted
    pub(crate) fn seal_in_place(&mut self, seqn: u32, packet: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        let (length, data) = packet.split_at_mut(LENGTH_LEN);
        self.0.length(seqn, length).expect("ChaCha20");
        let block = self.0.begin(seqn).expect("ChaCha20");
        self.0.packet.apply(data).expect("ChaCha20");
        *tag = self.0.mac.tag(&block, packet).expect("Poly1305");
    }
}
