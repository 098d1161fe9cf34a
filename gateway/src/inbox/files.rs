//! Payload parts of a received message on their way to the store: each under a safe name of its own.

use std::collections::HashMap;

use as2_core::receive::{PartInfo, PayloadSink, SinkError};

use crate::content_type;
use crate::layout;
use crate::storage::{Draft, Staged, Storage, StorageError};

/// Bytes of small payload files of one message that wait in memory for the verdict; further ones go to the disk.
const MAX_IN_MEMORY: u64 = 4 << 20;
/// Payload bytes after which the room on the disk is looked at again: a small body may inflate to a large one.
const ROOM_STEP: u64 = 16 << 20;

/// A payload file that is durable, or small and about to be.
pub(super) struct Part {
    pub(super) name: String,
    /// The name as it came.
    pub(super) wanted: Option<String>,
    /// Another part of the message has the name, so that this one's has a number.
    pub(super) numbered: bool,
    pub(super) content_type: String,
    pub(super) staged: Staged,
}

/// What a part is called.
struct Name {
    stored: String,
    wanted: Option<String>,
    numbered: bool,
}

/// Payload parts on their way to the store.
pub(super) struct Files<'a> {
    storage: &'a Storage,
    draft: Option<(Draft, Name, String)>,
    pub(super) parts: Vec<Part>,
    /// The names of the parts, each with the next number to try for another part that has it.
    names: HashMap<String, usize>,
    /// Bytes of the parts that are small.
    in_memory: u64,
    /// Bytes since the last look at the disk.
    unlooked: u64,
    pub(super) trouble: Option<StorageError>,
}

impl<'a> Files<'a> {
    pub(super) fn new(storage: &'a Storage) -> Self {
        Files {
            storage,
            draft: None,
            parts: Vec::new(),
            names: HashMap::new(),
            in_memory: 0,
            unlooked: 0,
            trouble: None,
        }
    }

    /// A safe name that no other part of this message has.
    fn name(&mut self, info: &PartInfo) -> Name {
        let safe = layout::attachment_name(
            info.file_name.as_deref(),
            info.index,
            content_type::extension_for(&info.content_type),
        );
        let numbered = self.names.contains_key(&safe);
        let mut stored = safe.clone();
        if let Some(mut n) = self.names.get(&safe).copied() {
            while self.names.contains_key(&stored) {
                stored = layout::numbered(&safe, n);
                n += 1;
            }
            self.names.insert(safe, n);
        }
        self.names.insert(stored.clone(), 2);
        Name {
            stored,
            wanted: info.file_name.clone(),
            numbered,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let Some((draft, ..)) = &mut self.draft else { return Ok(()) };
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.unlooked += len;
        if self.unlooked >= ROOM_STEP {
            self.storage.check_room_for(self.unlooked)?;
            self.unlooked = 0;
        }
        if draft.is_small() && self.in_memory + draft.len() + len > MAX_IN_MEMORY {
            draft.spill()?;
        }
        draft.append(bytes)
    }

    fn fail(&mut self, error: StorageError) -> SinkError {
        let text = error.to_string();
        self.trouble = Some(error);
        SinkError(text)
    }
}

impl PayloadSink for Files<'_> {
    fn part(&mut self, info: PartInfo) -> Result<(), SinkError> {
        if let Err(error) = self.storage.check_room() {
            return Err(self.fail(error));
        }
        self.draft = Some((self.storage.draft(), self.name(&info), info.content_type));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        if self.draft.is_none() {
            return Err(SinkError("data outside of a part".to_owned()));
        }
        self.append(bytes).map_err(|error| self.fail(error))
    }

    fn part_end(&mut self) -> Result<(), SinkError> {
        let Some((draft, name, content_type)) = self.draft.take() else {
            return Ok(());
        };
        match draft.stage() {
            Ok(staged) => {
                if staged.inline.is_some() {
                    self.in_memory += staged.len;
                }
                self.parts.push(Part {
                    name: name.stored,
                    wanted: name.wanted,
                    numbered: name.numbered,
                    content_type,
                    staged,
                });
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        // Parts that were handed on are gone from the list; what is left here belongs to a message that failed.
        for part in &self.parts {
            self.storage.discard(&part.staged.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::manage::tests::{place, place_with};

    fn part(files: &mut Files<'_>, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        files.part(PartInfo {
            index: files.parts.len(),
            file_name: Some(name.to_owned()),
            content_type: "application/edi-x12".to_owned(),
        })?;
        files.data(bytes)?;
        files.part_end()
    }

    #[tokio::test]
    async fn parts_of_one_name_are_numbered() {
        let place = place().await;
        let mut files = Files::new(&place.core.storage);
        for name in ["a.edi", "a~2.edi", "a.edi", "b", "a.edi", "a~2.edi", "b"] {
            part(&mut files, name, b"x").unwrap();
        }
        let names: Vec<_> = files.parts.iter().map(|part| (part.name.as_str(), part.numbered)).collect();
        assert_eq!(
            names,
            [
                ("a.edi", false),
                ("a~2.edi", false),
                ("a~3.edi", true),
                ("b", false),
                ("a~4.edi", true),
                ("a~2~2.edi", true),
                ("b~2", true)
            ]
        );
    }

    #[tokio::test]
    async fn many_small_parts_do_not_stay_in_memory() {
        let place = place().await;
        let mut files = Files::new(&place.core.storage);
        let small = vec![7; 60_000];
        for n in 0..100 {
            part(&mut files, &format!("{n}"), &small).unwrap();
        }
        let held: u64 = files.parts.iter().filter(|p| p.staged.inline.is_some()).map(|p| p.staged.len).sum();
        assert!((MAX_IN_MEMORY - 60_000..=MAX_IN_MEMORY).contains(&held), "{held}");
    }

    #[tokio::test]
    async fn a_payload_that_inflates_leaves_the_disk_its_room() {
        let free = crate::storage::free_bytes(&std::env::temp_dir()).unwrap();
        let place = place_with(|config| config.storage.min_free = free - (64 << 20)).await;
        let mut files = Files::new(&place.core.storage);
        let begun = files.part(PartInfo {
            index: 0,
            file_name: None,
            content_type: String::new(),
        });
        let bytes = vec![7; 1 << 20];
        // Others use the disk too, so that it may be any number that is far from all of it.
        let written = (0..1024).take_while(|_| begun.is_ok() && files.data(&bytes).is_ok()).count();
        assert!(written < 512, "{written} MiB");
        assert!(matches!(files.trouble, Some(StorageError::Full { .. })));
    }
}
