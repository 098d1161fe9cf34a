//! File names that a partner may not use, where its settings say so (FN-MDN, draft-harding-ediint-filename-preservation-03).
//! By default every name is taken and made safe; a refused one is told by `duplicate-filename` or `illegal-filename`.

use as2_core::{Error, ErrorKind};
use unicode_normalization::UnicodeNormalization as _;

use super::files::Part;
use crate::clock::Millis;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::message::Message;
use crate::partner::Partner;

/// What is wrong with the names of a good message. Two messages of one name at the same moment may both pass: the rule is a
/// service to the partner and guards nothing of ours.
pub(super) fn fault(core: &Core, partner: &Partner, message: &Message, parts: &[Part], now: Millis) -> Result<Option<Error>, FlowError> {
    if partner.refuse_illegal_names
        && let Some(part) = parts.iter().find(|part| is_illegal(part))
    {
        return Ok(Some(Error::new(
            ErrorKind::IllegalFilename,
            format!("a file name that would be stored as {}", part.name),
        )));
    }
    if !partner.refuse_duplicate_names {
        return Ok(None);
    }
    let named = parts.iter().filter(|part| part.wanted.is_some());
    for part in named {
        if let Some(earlier) = core.journal.read(|tx| tx.same_name_lately(message, &part.name, now))? {
            return Ok(Some(Error::new(
                ErrorKind::DuplicateFilename,
                format!("{} came with {earlier} already", part.name),
            )));
        }
    }
    Ok(None)
}

/// The name as it came is not one that can be stored as it is. No name at all is no illegal one.
fn is_illegal(part: &Part) -> bool {
    let same = |wanted: &String| wanted.nfc().eq(part.name.chars());
    // A number behind the name makes two of one message distinct; that is ours, not the partner's.
    part.wanted.as_ref().is_some_and(|wanted| !same(wanted) && !part.numbered)
}
