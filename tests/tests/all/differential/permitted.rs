//! Where our engine answers otherwise than OpenSSH's `sftp-server`, and why it may. Packets of an unknown type are not replayed:
//! OpenSSH's says nothing to them and leaves what came behind them until more comes, ours answers "not supported".

use super::requests::{CLOSE, EXTENDED, FSETSTAT, FSTAT, OPEN, READ, RENAME, SETSTAT, Step, WRITE};
use super::server::Seen;

/// A difference that is meant.
pub(super) struct Permitted {
    pub(super) name: &'static str,
    /// Behind it the two are not in the same state any more.
    pub(super) ends: bool,
}

const READS: u32 = 0x01;
const WRITES: u32 = 0x02 | 0x04;
const OK: Seen = Seen::Status(0);
const NO_SUCH_FILE: Seen = Seen::Status(2);
const DENIED: Seen = Seen::Status(3);
const FAILURE: Seen = Seen::Status(4);
const BAD_MESSAGE: Seen = Seen::Status(5);
const UNSUPPORTED: Seen = Seen::Status(8);

fn is_link(seen: &Seen) -> bool {
    let links = |attributes: &super::server::Attributes| attributes.mode.is_some_and(|mode| mode & 0o170_000 == 0o120_000);
    match seen {
        Seen::Attributes(attributes) => links(attributes),
        Seen::Names(names, _) => names.iter().any(|(_, attributes)| links(attributes)),
        _ => false,
    }
}

/// The rule by which the two go different ways even where they answer alike.
pub(super) fn parting(step: &Step) -> Option<Permitted> {
    let rule = |name| Some(Permitted { name, ends: true });
    let flags = step.flags();
    match step.kind {
        // A handle that only reads creates and empties nothing: a file comes into being by an upload alone.
        OPEN if flags & WRITES == 0 && flags & !READS != 0 => rule("OPEN without WRITE: nothing is created or emptied"),
        // OpenSSH opens it for reading, which no client can have meant.
        OPEN if flags & WRITES == 0x04 => rule("OPEN with APPEND alone is for writing"),
        _ => None,
    }
}

/// The rule by which these two answers may differ.
pub(super) fn permitted(step: &Step, theirs: &Seen, ours: &Seen) -> Option<Permitted> {
    let rule = |name, ends| Some(Permitted { name, ends });
    let flags = step.flags();
    let path = step.paths().next().unwrap_or_default();
    match step.kind {
        // OpenSSH takes it for reading.
        OPEN if flags & (WRITES | READS) == 0 && *ours == BAD_MESSAGE => rule("OPEN for neither reading nor writing", true),
        OPEN => parting(step),
        // EBADF, which OpenSSH tells as a missing file.
        READ | WRITE if *theirs == NO_SUCH_FILE && (*ours == DENIED || *ours == FAILURE) => {
            rule("a handle of the other direction, named as such", step.kind == WRITE)
        }
        READ if is_shorter(theirs, ours) => rule("a READ of a handle that is written too: at most 32 KiB at once", false),
        // OpenSSH looks at the handle only when there is something to read.
        READ if *theirs == Seen::Data(Vec::new()) && (*ours == DENIED || *ours == FAILURE) => {
            rule("a handle of the other direction, named as such", false)
        }
        // EBADF again, for a handle that is not open.
        CLOSE if *theirs == NO_SUCH_FILE && *ours == FAILURE => rule("a handle that is not open, named as such", false),
        // A failed WRITE stays with its handle, so that no file with a hole is taken for whole.
        WRITE | CLOSE | FSETSTAT if *theirs == OK && *ours == FAILURE => rule("behind a failed WRITE the handle is spoilt", true),
        // OpenSSH knows a directory's handle by its name only.
        FSTAT if *theirs == FAILURE && matches!(ours, Seen::Attributes(_)) => rule("FSTAT of a directory's handle", false),
        // OpenSSH does nothing, and succeeds in it.
        SETSTAT if *theirs == OK && *ours == NO_SUCH_FILE && step.sets_nothing() => rule("SETSTAT of nothing, of what is not there", false),
        FSETSTAT if *ours == DENIED => rule("FSETSTAT of a handle that only reads", true),
        // OpenSSH follows the link to see whether the name is there.
        RENAME if step.paths().any(|path| path == b"dead") => rule("RENAME to a link that leads nowhere: the name is there", true),
        // The path is made absolute by its text: there are no links to follow, and no name is told to exist or not.
        16 if matches!(ours, Seen::Path(_)) => rule("REALPATH goes by the text alone", false),
        _ if step.paths().any(|path| path.windows(2).any(|two| two == b"..")) => rule("what stands before `..` need not be there", true),
        // The empty path is where the user starts (draft-02 §6.2), in every request.
        _ if path.is_empty() && step.paths().next().is_some() && *theirs == NO_SUCH_FILE => rule("the empty path", true),
        7 | 12 if is_link(theirs) && !is_link(ours) => rule("links are shown as files: the product's trees have none", false),
        EXTENDED => match step.extension() {
            b"fsync@openssh.com" if *theirs == OK && *ours == FAILURE => rule("a sync of what is not written", false),
            b"fsync@openssh.com" if *theirs == NO_SUCH_FILE && *ours == FAILURE => rule("a handle that is not open, named as such", false),
            b"expand-path@openssh.com" if matches!(ours, Seen::Path(_)) => rule("REALPATH goes by the text alone", false),
            b"home-directory" if matches!(ours, Seen::Path(_)) => rule("home is where the user starts", false),
            // A second way to create content would be a second set of rules.
            b"copy-data" if *ours == UNSUPPORTED => rule("copy-data is not run", true),
            b"users-groups-by-id@openssh.com" => rule("there are no numeric users", false),
            _ => None,
        },
        _ => None,
    }
}

fn is_shorter(theirs: &Seen, ours: &Seen) -> bool {
    matches!((theirs, ours), (Seen::Data(a), Seen::Data(b)) if b.len() == 32 << 10 && a.starts_with(b))
}
