//! How much work contents are, by their length: what is small never waits behind what is not.

use as2_core::cms::compressed::MAX_RATIO;

/// Contents of more bytes than this take a large part of a second, or minutes.
const LARGE: u64 = 64 << 20;
/// Contents of at most so many bytes are never that much work, also if they are compressed: nobody knows before they are opened.
const SMALL: u64 = LARGE / MAX_RATIO;

/// How much work contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Little, whatever they hold.
    Small,
    /// Little, unless they inflate to gigabytes.
    Medium,
    /// Much.
    Large,
}

impl Weight {
    /// That of so many bytes.
    #[must_use]
    pub(crate) fn of(bytes: u64) -> Self {
        if bytes <= SMALL {
            Weight::Small
        } else if bytes <= LARGE {
            Weight::Medium
        } else {
            Weight::Large
        }
    }
}
