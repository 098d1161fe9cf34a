//! Path rules: whatever a client sends, what is parsed cannot climb, and means the same when it is written and read again.
#![no_main]
#![allow(dead_code, reason = "the file is included as it is")]

#[path = "../../src/path.rs"]
mod path;

use libfuzzer_sys::fuzz_target;
use path::{MAX_COMPONENT, MAX_COMPONENTS, VPath};

fuzz_target!(|data: &[u8]| {
    // Before the first NUL the home, after it the client's bytes.
    let cut = data.iter().position(|&byte| byte == 0).unwrap_or(0);
    let (home, bytes) = (&data[..cut], data.get(cut + 1..).unwrap_or_default());
    let home = VPath::parse(home, &VPath::root()).unwrap_or_default();
    let Ok(parsed) = VPath::parse(bytes, &home) else { return };
    assert!(
        parsed.components().len() <= MAX_COMPONENTS.max(home.components().len()),
        "too many components"
    );
    for part in parsed.components() {
        assert!(
            !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_COMPONENT,
            "a component that is none: {part:?}"
        );
        assert!(
            !part.contains('/') && !part.chars().any(char::is_control),
            "a character that must not be there: {part:?}"
        );
    }
    assert!(parsed.is_within(&VPath::root()) && parsed.is_within(&parsed));
    if let (Some(parent), Some(name)) = (parsed.parent(), parsed.name()) {
        assert!(parsed.is_within(&parent) && !parent.is_within(&parsed), "a parent that is none");
        assert_eq!(parent.join(name).as_ref(), Ok(&parsed), "a path is not its parent and its name");
    }
    // A path near the limits may become longer than what may be read, when the home is put before it.
    let written = parsed.to_string();
    if written.len() <= path::MAX_PATH {
        assert_eq!(VPath::absolute(&written), Ok(parsed), "a path changes when it is written");
    }
});
