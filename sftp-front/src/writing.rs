//! A file being written through one handle: the upload, its record, its first fault. Its OPEN may wait and
//! `fsync@openssh.com` does, so meanwhile the file is [lent](Lent) to the work that goes on aside, and whatever names its
//! handle waits.

use crate::facts::Ledger;
use crate::lock::locked;
use crate::path::VPath;
use crate::tree::{Fault, OpenHow, Tree, Tried, Upload};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// An OPEN for writing.
pub(crate) struct Opening {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) path: VPath,
    pub(crate) how: OpenHow,
    pub(crate) client: String,
    pub(crate) open: Counted,
}

impl Opening {
    /// The file, once its upload is there.
    pub(crate) fn writing(self, upload: Box<dyn Upload>) -> Writing {
        let size = upload.stat().map_or(0, |stat| stat.size);
        Writing {
            tree: self.tree,
            path: self.path,
            upload,
            ledger: Ledger::new(self.how, self.client, size),
            fault: None,
            open: self.open,
        }
    }

    fn run(self) -> Result<Writing, Fault> {
        let opened = self.tree.open_write(&self.path, &self.how);
        let upload = opened.inspect_err(|fault| self.tree.refused(Tried::Write, &self.path.to_string(), fault))?;
        Ok(self.writing(upload))
    }
}

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
        self.attempt(|w| w.upload.sync())
    }
}

/// A file that is being opened or synced. Whoever lets go of it last abandons the file, if it was not [taken back](Lent::take).
pub(crate) struct Lent(Mutex<Option<Box<Writing>>>);

impl Lent {
    pub(crate) fn new(file: Option<Box<Writing>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(file)))
    }

    pub(crate) fn open(&self, opening: Opening) -> Result<(), Fault> {
        let opened = opening.run()?;
        *self.file() = Some(Box::new(opened));
        Ok(())
    }

    /// Should it panic, the file is abandoned.
    pub(crate) fn sync(&self) -> Result<(), Fault> {
        self.file().as_mut().map_or(Ok(()), |file| file.sync())
    }

    /// The file, after the work; none if it could not be opened.
    pub(crate) fn take(&self) -> Option<Box<Writing>> {
        self.file().take()
    }

    fn file(&self) -> MutexGuard<'_, Option<Box<Writing>>> {
        locked(&self.0)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(file) = self.take() {
            file.abandon();
        }
    }
}
