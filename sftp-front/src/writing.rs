//! A file being written through one handle: the upload, its record, its first fault. `fsync@openssh.com` waits for the disk,
//! so meanwhile the file is [lent](Lent) to the work that goes on aside, and whatever names its handle waits.

use crate::facts::Ledger;
use crate::path::VPath;
use crate::tree::{Fault, Tree, Tried, Upload};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A file being written, and what is known about it.
pub(crate) struct Writing {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) path: VPath,
    pub(crate) upload: Box<dyn Upload>,
    pub(crate) ledger: Ledger,
    /// The first write error; it stays with the handle.
    pub(crate) fault: Option<Fault>,
    pub(crate) open: Counted,
}

/// A place in the count of open uploads.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(crate) fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Writing {
    /// Runs a step whose failure stays with the handle.
    pub(crate) fn attempt(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        let result = match &self.fault {
            Some(fault) => Err(fault.clone()),
            None => step(self),
        };
        if let Err(fault) = &result {
            self.ledger.facts.failed += 1;
            if self.fault.is_none() {
                self.tree.refused(Tried::Write, &self.path.to_string(), fault);
            }
            self.fault = Some(fault.clone());
        }
        result
    }

    pub(crate) fn abandon(self) {
        self.upload.abandon(&self.ledger.facts);
    }

    fn sync(&mut self) -> Result<(), Fault> {
        self.attempt(|w| {
            w.upload.sync()?;
            w.ledger.facts.fsynced = true;
            Ok(())
        })
    }
}

/// A file that is being synced. Whoever lets go of it last abandons the file, if it was not [taken back](Lent::back).
pub(crate) struct Lent {
    file: Mutex<Option<Box<Writing>>>,
    is_done: AtomicBool,
}

impl Lent {
    pub(crate) fn new(file: Box<Writing>) -> Arc<Self> {
        Arc::new(Self {
            file: Mutex::new(Some(file)),
            is_done: AtomicBool::new(false),
        })
    }

    /// The work. Should it panic, the file is abandoned.
    pub(crate) fn sync(&self) -> Result<(), Fault> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let result = file.as_mut().map_or(Ok(()), |file| file.sync());
        self.is_done.store(true, Ordering::SeqCst);
        result
    }

    /// The file, once the work is done; it never waits.
    pub(crate) fn back(&self) -> Option<Box<Writing>> {
        if !self.is_done.load(Ordering::SeqCst) {
            return None;
        }
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(file) = file {
            file.abandon();
        }
    }
}
