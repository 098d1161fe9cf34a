//! What the wire shows about an upload. CLOSE alone does not mean "finished": most clients close a partial file as
//! cleanly as a whole one. The engine records the signs; what they are worth is decided behind the [`Tree`](crate::Tree).

use crate::packet::MAX_DATA;
use crate::tree::{Fault, OpenHow};

/// Most separate ranges of a file being written; a WRITE that needs more fails.
pub const MAX_EXTENTS: usize = 1000;
/// The block of clients that do not know `limits@openssh.com`.
const OLD_BLOCK: u32 = 32_768;

/// The record of one handle that was opened for writing; sizes and offsets in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadFacts {
    /// Flags and declared size of the OPEN.
    pub how: OpenHow,
    /// Identification string of the client, such as `SSH-2.0-OpenSSH_9.2p1`; may be empty.
    pub client: String,
    /// Size of the file when it was opened; 0 for a fresh one.
    pub size_at_open: u64,
    /// Size now: what a reader of the file would get.
    pub size: u64,
    /// WRITE requests that succeeded.
    pub writes: u64,
    /// Bytes between 0 and `size` were never written.
    pub gap: bool,
    /// WRITE, FSETSTAT or sync requests that failed or came after a failed one.
    pub failed: u64,
    /// Length of the first WRITE.
    pub block_len: u32,
    /// All WRITEs had the length of the first.
    pub blocks_uniform: bool,
    /// Size of the last FSETSTAT that named one.
    pub size_set: Option<u64>,
    /// That size was the size of the file already.
    pub size_set_matched: bool,
    /// There was a WRITE after it.
    pub written_after_size_set: bool,
}

impl UploadFacts {
    /// A size was declared at OPEN, and exactly so many bytes are there, without a gap: finished (WinSCP).
    #[must_use]
    pub fn declared_size_reached(&self) -> bool {
        self.how.declared_size == Some(self.size) && !self.gap && self.failed == 0
    }

    /// A size was declared at OPEN and is not reached: doubtful.
    #[must_use]
    pub fn declared_size_missed(&self) -> bool {
        self.how.declared_size.is_some_and(|d| d > self.size)
    }

    /// The client confirmed the size with FSETSTAT after its last WRITE, on a handle without APPEND: finished (lftp, scp
    /// from 9.1).
    #[must_use]
    pub fn size_confirmed(&self) -> bool {
        !self.how.append && self.size_set_matched && !self.written_after_size_set && !self.gap && self.failed == 0
    }

    /// The client set a size on a handle opened with APPEND: OpenSSH's `reput`, and only when it was interrupted.
    #[must_use]
    pub fn append_was_cut(&self) -> bool {
        self.how.append && self.size_set.is_some()
    }

    /// The client asks for the size by STAT after a finished `put`, and not after one that was broken off (paramiko).
    #[must_use]
    pub fn client_looks_back(&self) -> bool {
        self.client.contains("paramiko")
    }

    /// The client is a library, with which nobody comes to the rename behind an upload that was broken off by an exception or
    /// a cancelled task. OpenSSH's `sftp -b` does, and may speak through another program's connection.
    #[must_use]
    pub fn client_renames_only_what_is_whole(&self) -> bool {
        ["paramiko", "AsyncSSH", "libssh_"]
            .iter()
            .any(|library| self.client.contains(library))
    }

    /// All blocks have one length, the last one too, and it is the advertised length, or that of clients that do not know
    /// `limits@openssh.com`, OpenSSH before 8.6 and paramiko: the file ends where an interrupted OpenSSH, asyncssh or
    /// paramiko stops. A finished file does so only if its size is an exact multiple.
    #[must_use]
    pub fn ends_on_full_block(&self) -> bool {
        let advertised = usize::try_from(self.block_len) == Ok(MAX_DATA);
        let old = self.block_len == OLD_BLOCK && (self.client.contains("OpenSSH") || self.client_looks_back());
        self.writes > 0 && self.blocks_uniform && !self.gap && (advertised || old)
    }
}

/// Keeps the facts of one open handle up to date.
pub(crate) struct Ledger {
    pub(crate) facts: UploadFacts,
    extents: Extents,
}

impl Ledger {
    pub(crate) fn new(how: OpenHow, client: String, size_at_open: u64) -> Self {
        let facts = UploadFacts {
            how,
            client,
            size_at_open,
            size: size_at_open,
            blocks_uniform: true,
            ..Default::default()
        };
        Self {
            facts,
            extents: Extents::from_start(size_at_open),
        }
    }

    /// Where a WRITE that names `offset` goes: to the end of a file opened with APPEND.
    pub(crate) fn place(&self, offset: u64) -> u64 {
        if self.facts.how.append { self.facts.size } else { offset }
    }

    /// Refuses a WRITE that its client would place behind the end of a file opened with APPEND: it goes on with more than is
    /// there, as the size that it asked for was that of another upload of the name. Some clients always name 0.
    pub(crate) fn check_append(&self, offset: u64) -> Result<(), Fault> {
        let size = self.facts.size;
        if self.facts.how.append && offset > size {
            Err(Fault::Failure(format!(
                "the file to go on with has {size} bytes here, not {offset}; upload it whole"
            )))
        } else {
            Ok(())
        }
    }

    /// Refuses, before it is run, a WRITE that cannot be recorded.
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<(), Fault> {
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        let Some(end) = end else {
            return Err(Fault::Failure("the offset is too large".into()));
        };
        if self.extents.room_for(offset, end) {
            Ok(())
        } else {
            Err(Fault::Failure("too many separate ranges in one file".into()))
        }
    }

    /// Records a WRITE that succeeded.
    pub(crate) fn wrote(&mut self, offset: u64, len: u32) {
        let f = &mut self.facts;
        let end = offset.saturating_add(u64::from(len));
        if f.writes == 0 {
            f.block_len = len;
            // A restart: the old content does not count.
            if offset == 0 && f.size_at_open > 0 && !f.how.append && !f.how.truncate {
                f.size = 0;
                self.extents = Extents::default();
            }
        }
        f.writes += 1;
        f.size = f.size.max(end);
        f.blocks_uniform &= len == f.block_len;
        f.written_after_size_set = f.size_set.is_some();
        self.extents.add(offset, end);
        self.note_gap();
    }

    /// Records an FSETSTAT that succeeded.
    pub(crate) fn set(&mut self, size: Option<u64>) {
        if let Some(size) = size {
            self.facts.size_set = Some(size);
            self.facts.size_set_matched = size == self.facts.size;
            self.facts.written_after_size_set = false;
            self.facts.size = size;
            self.extents.cut(size);
            self.note_gap();
        }
    }

    fn note_gap(&mut self) {
        self.facts.gap = !self.extents.covers(self.facts.size);
    }
}

/// Sorted ranges that neither touch nor overlap.
#[derive(Default)]
struct Extents(Vec<(u64, u64)>);

impl Extents {
    fn from_start(end: u64) -> Self {
        if end == 0 { Self::default() } else { Self(vec![(0, end)]) }
    }

    /// The ranges that `start..end` touches, as a range of indices.
    fn touched(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        let from = self.0.partition_point(|r| r.1 < start);
        let to = self.0.partition_point(|r| r.0 <= end);
        from..to.max(from)
    }

    fn room_for(&self, start: u64, end: u64) -> bool {
        self.0.len() < MAX_EXTENTS || !self.touched(start, end).is_empty()
    }

    fn add(&mut self, mut start: u64, mut end: u64) {
        if start == end {
            return;
        }
        let touched = self.touched(start, end);
        for r in self.0.get(touched.clone()).unwrap_or_default() {
            start = start.min(r.0);
            end = end.max(r.1);
        }
        self.0.splice(touched, [(start, end)]);
    }

    fn cut(&mut self, size: u64) {
        self.0.retain(|r| r.0 < size);
        if let Some(last) = self.0.last_mut() {
            last.1 = last.1.min(size);
        }
    }

    fn covers(&self, size: u64) -> bool {
        match self.0.as_slice() {
            [] => size == 0,
            [one] => *one == (0, size),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u32 = 261_120;

    fn ledger(how: OpenHow, size: u64) -> Ledger {
        Ledger::new(how, "SSH-2.0-OpenSSH_9.2p1".to_owned(), size)
    }

    #[test]
    fn put_whole_and_cut() {
        let how = OpenHow {
            create: true,
            truncate: true,
            ..Default::default()
        };
        let mut l = ledger(how, 0);
        l.wrote(0, BLOCK);
        l.wrote(u64::from(BLOCK), BLOCK);
        assert!(l.facts.ends_on_full_block() && !l.facts.gap);
        l.wrote(u64::from(BLOCK) * 2, 10);
        assert!(!l.facts.ends_on_full_block());
        assert_eq!((l.facts.size, l.facts.block_len), (522_250, BLOCK));
    }

    #[test]
    fn scp_restarts_over_a_longer_part() {
        let mut l = ledger(
            OpenHow {
                create: true,
                ..Default::default()
            },
            900,
        );
        l.wrote(0, 100);
        l.wrote(100, 50);
        assert_eq!((l.facts.size_at_open, l.facts.size), (900, 150));
        l.set(Some(150));
        assert!(l.facts.size_confirmed() && !l.facts.gap);
    }

    #[test]
    fn reput_whole_and_cut() {
        let how = OpenHow {
            create: true,
            append: true,
            ..Default::default()
        };
        let mut l = ledger(how, 500);
        assert_eq!(l.place(0), 500);
        l.wrote(500, 100);
        assert_eq!(l.place(0), 600);
        assert!(!l.facts.append_was_cut() && !l.facts.gap && l.facts.size == 600);
        l.set(Some(0));
        assert!(l.facts.append_was_cut() && !l.facts.size_confirmed() && l.facts.size == 0);
    }

    #[test]
    fn holes_and_declared_sizes() {
        let how = OpenHow {
            declared_size: Some(30),
            ..Default::default()
        };
        let mut l = ledger(how, 0);
        l.wrote(10, 10);
        assert!(l.facts.gap && l.facts.declared_size_missed());
        l.wrote(20, 10);
        assert!(l.facts.gap && !l.facts.declared_size_reached() && !l.facts.declared_size_missed());
        l.wrote(0, 10);
        assert!(!l.facts.gap && l.facts.declared_size_reached());
        l.set(Some(40));
        assert!(l.facts.gap && !l.facts.size_confirmed());
    }

    #[test]
    fn limits() {
        let mut l = ledger(OpenHow::default(), 0);
        for i in 0..MAX_EXTENTS as u64 {
            assert!(l.check(i * 2, 1).is_ok());
            l.wrote(i * 2, 1);
        }
        assert!(l.check(5000, 1).is_err() && l.check(1, 1).is_ok());
        assert!(l.check(u64::MAX, 1).is_err() && l.check(i64::MAX as u64, 1).is_err());
    }

    proptest! {
        #[test]
        fn extents_agree_with_a_bitmap(steps in proptest::collection::vec((0u64..64, 0u64..16, any::<bool>()), 0..40)) {
            let (mut extents, mut bits, mut size) = (Extents::default(), [false; 96], 0u64);
            for (start, len, cut) in steps {
                if cut {
                    extents.cut(start);
                    size = start;
                    bits.iter_mut().skip(start as usize).for_each(|b| *b = false);
                } else {
                    extents.add(start, start + len);
                    size = size.max(start + len);
                    bits.iter_mut().skip(start as usize).take(len as usize).for_each(|b| *b = true);
                }
                prop_assert_eq!(extents.covers(size), bits.iter().take(size as usize).all(|b| *b));
                prop_assert!(extents.0.windows(2).all(|w| w[0].1 < w[1].0));
            }
        }
    }
}
