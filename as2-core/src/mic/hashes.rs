//! Several digests of one stream: taken here, or, of large content, by a helper while the caller goes on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::algorithm::Digest;
use crate::crypto::{Beside, Hasher};
use crate::error::{Error, ErrorKind};
use crate::helper::{HELP_FROM, Helper};

/// Bytes of a buffer that goes to the helper and comes back, and how many of them there are: what the caller may be ahead.
const BUFFER: usize = 128 * 1024;
const BUFFERS: usize = 8;
/// Empty buffers that come back together. The caller, who is the faster one, sleeps until then: waking it up costs the helper
/// time, and it takes a while, for which the other buffers must last.
const RETURNED: usize = BUFFERS / 2;

/// Digests of one stream.
pub(crate) type Digests = Vec<(Digest, Vec<u8>)>;

/// Several digests of one stream, in the making.
pub(crate) struct Hashes {
    names: Vec<Digest>,
    place: Place,
    /// To be asked when it is worth it.
    helper: Option<Arc<dyn Helper>>,
    taken: u64,
}

enum Place {
    Here(Vec<Hasher>),
    Beside(Pipe),
}

impl Hashes {
    pub(crate) fn new(digests: &[Digest]) -> Result<Self, Error> {
        let mut names: Vec<Digest> = Vec::with_capacity(digests.len());
        for &digest in digests {
            if !names.contains(&digest) {
                names.push(digest);
            }
        }
        let hashers = names.iter().map(|&digest| Hasher::new(digest)).collect::<Result<_, _>>()?;
        Ok(Hashes {
            names,
            place: Place::Here(hashers),
            helper: None,
            taken: 0,
        })
    }

    /// Lets a helper take them from [`HELP_FROM`] bytes on.
    pub(crate) fn lend(&mut self, helper: &Arc<dyn Helper>) {
        self.helper = Some(Arc::clone(helper));
    }

    /// Has SHA-256 go along with a decryption, if both can; before the first byte.
    pub(crate) fn join(&mut self, beside: &Beside) {
        if let Place::Here(hashers) = &mut self.place
            && let Some(hasher) = hashers.iter_mut().find(|hasher| hasher.digest() == Digest::Sha256)
            && let Some(joined) = beside.sha256()
        {
            *hasher = joined;
        }
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.names.contains(&digest)
    }

    /// Gives up one digest that is taken elsewhere; before the first byte.
    pub(crate) fn leave_out(&mut self, digest: Digest) {
        self.names.retain(|known| *known != digest);
        if let Place::Here(hashers) = &mut self.place {
            hashers.retain(|hasher| hasher.digest() != digest);
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.taken += bytes.len() as u64;
        match &mut self.place {
            Place::Here(hashers) => hashers.iter_mut().try_for_each(|hasher| hasher.update(bytes))?,
            Place::Beside(pipe) => return pipe.push(bytes),
        }
        if self.taken >= HELP_FROM
            && let Some(helper) = self.helper.take()
            && let Place::Here(hashers) = &mut self.place
            && !hashers.is_empty()
            && let Some(pipe) = Pipe::lay(hashers, helper.as_ref())
        {
            self.place = Place::Beside(pipe);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Digests, Error> {
        match self.place {
            Place::Here(hashers) => finish(hashers),
            Place::Beside(pipe) => pipe.finish(),
        }
    }
}

fn finish(hashers: Vec<Hasher>) -> Result<Digests, Error> {
    hashers.into_iter().map(|hasher| Ok((hasher.digest(), hasher.finish()?))).collect()
}

/// Bytes on their way to the helper, in buffers that come back.
struct Pipe {
    filling: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    /// Buffers at hand, and those that come back.
    empty: Vec<Vec<u8>>,
    emptied: Receiver<Vec<Vec<u8>>>,
    done: Receiver<Result<Digests, Error>>,
}

impl Pipe {
    /// Moves the digests to the helper; `None`, and they stay, if it has no time.
    fn lay(hashers: &mut Vec<Hasher>, helper: &dyn Helper) -> Option<Self> {
        let (give, given) = sync_channel::<Vec<Hasher>>(1);
        let (full, filled) = sync_channel::<Vec<u8>>(BUFFERS);
        let (give_back, emptied) = sync_channel(BUFFERS);
        let (result, done) = sync_channel(1);
        let taken_on = helper.run(Box::new(move || {
            let Ok(hashers) = given.recv() else { return };
            // A caller that has given up does not listen any more.
            let _ = result.send(digest(hashers, &filled, &give_back));
        }));
        if !taken_on {
            return None;
        }
        hashers.iter_mut().for_each(Hasher::part);
        if let Err(job_is_gone) = give.send(std::mem::take(hashers)) {
            *hashers = job_is_gone.0;
            return None;
        }
        Some(Pipe {
            filling: Vec::with_capacity(BUFFER),
            full,
            empty: (1..BUFFERS).map(|_| Vec::with_capacity(BUFFER)).collect(),
            emptied,
            done,
        })
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
            if self.filling.len() == BUFFER {
                if self.empty.is_empty() {
                    self.empty = self.emptied.recv().map_err(|_| gone())?;
                }
                let next = self.empty.pop().ok_or_else(gone)?;
                let full = std::mem::replace(&mut self.filling, next);
                self.full.send(full).map_err(|_| gone())?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Digests, Error> {
        let Pipe { filling, full, done, .. } = self;
        full.send(filling).map_err(|_| gone())?;
        drop(full);
        done.recv().map_err(|_| gone())?
    }
}

/// The helper's part.
fn digest(mut hashers: Vec<Hasher>, filled: &Receiver<Vec<u8>>, back: &SyncSender<Vec<Vec<u8>>>) -> Result<Digests, Error> {
    let mut empty = Vec::with_capacity(RETURNED);
    for mut buffer in filled {
        hashers.iter_mut().try_for_each(|hasher| hasher.update(&buffer))?;
        buffer.clear();
        empty.push(buffer);
        if empty.len() == RETURNED {
            // Nobody waits for the last ones.
            let _ = back.try_send(std::mem::replace(&mut empty, Vec::with_capacity(RETURNED)));
        }
    }
    finish(hashers)
}

fn gone() -> Error {
    Error::new(ErrorKind::UnexpectedProcessingError, "the helper that takes digests is gone")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cms::testkit::{Threads, content, in_pieces};

    /// Takes a job and lets it fall.
    struct Careless;

    impl Helper for Careless {
        fn run(&self, job: Box<dyn FnOnce() + Send>) -> bool {
            drop(job);
            true
        }
    }

    fn digests(helper: Option<Arc<dyn Helper>>, bytes: &[u8], seed: u64) -> Result<Digests, Error> {
        let mut hashes = Hashes::new(&[Digest::Sha256, Digest::Sha1, Digest::Sha256])?;
        helper.iter().for_each(|helper| hashes.lend(helper));
        in_pieces(bytes, seed, |piece| hashes.update(piece))?;
        hashes.finish()
    }

    #[test]
    fn a_helper_finds_the_same_digests() {
        let from = HELP_FROM as usize;
        for size in [0, from - 1, from, from + 1, from + BUFFER, from + 10 * BUFFER + 7] {
            let bytes = content(size);
            let alone = digests(None, &bytes, 1).unwrap();
            let (willing, busy) = (Threads::new(9), Threads::new(0));
            assert_eq!(digests(Some(willing.clone()), &bytes, 2).unwrap(), alone, "{size}");
            assert_eq!(digests(Some(busy.clone()), &bytes, 3).unwrap(), alone, "{size}");
            assert_eq!(willing.taken(), usize::from(size >= from), "{size}");
            assert_eq!(busy.taken(), 0);
        }
    }

    #[test]
    fn a_helper_that_lets_go_changes_no_digest() {
        let bytes = content(HELP_FROM as usize + 10 * BUFFER);
        let alone = digests(None, &bytes, 1).unwrap();
        assert_eq!(digests(Some(Arc::new(Careless)), &bytes, 1).unwrap(), alone);
    }

    #[test]
    fn giving_up_ends_the_helper() {
        let helper = Threads::new(1);
        let lent: Arc<dyn Helper> = helper.clone();
        let mut hashes = Hashes::new(&[Digest::Sha256]).unwrap();
        hashes.lend(&lent);
        hashes.update(&content(HELP_FROM as usize)).unwrap();
        drop(hashes);
        helper.join();
    }
}
