//! How digest and cipher of a message work on the same bytes.

/// How the bytes of a signed and encrypted message are worked on. The message, and what is said about it, are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// SHA-256 and AES-CBC in one stream of instructions, where the message has both and the processor can; else as
    /// [`Kernel::Separate`].
    #[default]
    Fused,
    /// Digest and cipher one after the other.
    Separate,
}
