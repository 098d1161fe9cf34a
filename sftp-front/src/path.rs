//! The one path type of this crate. A client's path is parsed here once, into components that cannot climb; everything
//! behind this file (rights, storage, logs) works on the parsed value and never on the client's bytes.

use std::fmt;

/// Longest path taken from a client, in bytes.
pub const MAX_PATH: usize = 4096;
/// Most components of a path, after normalisation.
pub const MAX_COMPONENTS: usize = 64;
/// Longest single component, in bytes.
pub const MAX_COMPONENT: usize = 255;

/// A normalised absolute path of the virtual tree: no empty component, no `.`, no `..`, no `/`, no control character,
/// valid UTF-8. Its [`Display`](fmt::Display) form is `/a/b`, or `/` for the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VPath {
    components: Vec<String>,
}

/// Why the bytes of a client are not a path; the text is fit for a status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// More than [`MAX_PATH`] bytes or [`MAX_COMPONENTS`] components, or a component over [`MAX_COMPONENT`] bytes.
    #[error("the path is too long")]
    TooLong,
    /// Not UTF-8. Names are never repaired, since two names would become one.
    #[error("the path is not valid UTF-8")]
    NotUtf8,
    /// NUL, line ends and other control characters.
    #[error("the path has a control character")]
    Control,
    /// A name given for one component is empty, `.`, `..` or has a `/`.
    #[error("this is not a file name")]
    NotAName,
}

impl VPath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses a client's path. A relative path, the empty one included, starts at `home`; `..` at the root stays there.
    ///
    /// # Errors
    /// [`PathError`] by the limits and the character rules above.
    pub fn parse(bytes: &[u8], home: &VPath) -> Result<Self, PathError> {
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PathError::NotUtf8)?;
        if text.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        let mut components = if text.starts_with('/') {
            Vec::new()
        } else {
            home.components.clone()
        };
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    components.pop();
                }
                name if name.len() > MAX_COMPONENT || components.len() == MAX_COMPONENTS => return Err(PathError::TooLong),
                name => components.push(name.to_owned()),
            }
        }
        Ok(Self { components })
    }

    /// Parses an absolute path that the program itself wrote, such as `/AS2/send`.
    ///
    /// # Errors
    /// As [`VPath::parse`].
    pub fn absolute(text: &str) -> Result<Self, PathError> {
        Self::parse(text.as_bytes(), &Self::root())
    }

    /// This path with one more component.
    ///
    /// # Errors
    /// [`PathError::NotAName`] if `name` is not exactly one component, else as [`VPath::parse`].
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(PathError::NotAName);
        }
        Self::parse(name.as_bytes(), self)
    }

    /// The components from the root on; empty for the root itself.
    #[must_use]
    pub fn components(&self) -> &[String] {
        &self.components
    }

    /// The last component, or `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.components.last().map(String::as_str)
    }

    /// The path one level up, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.components.split_last()?;
        Some(Self { components: rest.to_vec() })
    }

    /// Whether all of it is ASCII, so that it has one form only.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.components.iter().all(|c| c.is_ascii())
    }

    /// Whether this path is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &VPath) -> bool {
        self.components.starts_with(&other.components)
    }
}

impl fmt::Display for VPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.components.is_empty() {
            return f.write_str("/");
        }
        self.components.iter().try_for_each(|c| write!(f, "/{c}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn at_home(text: &[u8]) -> Result<String, PathError> {
        VPath::parse(text, &VPath::absolute("/home/me").unwrap()).map(|p| p.to_string())
    }

    #[test]
    fn traversal_list() {
        for (given, normal) in [
            ("", "/home/me"),
            (".", "/home/me"),
            ("./", "/home/me"),
            ("a", "/home/me/a"),
            ("a/", "/home/me/a"),
            ("a//b/./c", "/home/me/a/b/c"),
            ("..", "/home"),
            ("../..", "/"),
            ("../../../../../../etc/passwd", "/etc/passwd"),
            ("/", "/"),
            ("//", "/"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a/../../b", "/b"),
            ("/a/b/../c", "/a/c"),
            ("/a/.../b", "/a/.../b"),
            ("/a/..b", "/a/..b"),
            ("/a\\..\\b", "/a\\..\\b"),
            ("~", "/home/me/~"),
            ("%2e%2e/x", "/home/me/%2e%2e/x"),
            ("/ä/ö", "/ä/ö"),
        ] {
            assert_eq!(at_home(given.as_bytes()).as_deref(), Ok(normal), "{given:?}");
        }
    }

    #[test]
    fn refused() {
        assert_eq!(at_home(b"a\0b"), Err(PathError::Control));
        assert_eq!(at_home(b"a\nb"), Err(PathError::Control));
        assert_eq!(at_home(b"a\x7f"), Err(PathError::Control));
        assert_eq!(at_home("a\u{85}".as_bytes()), Err(PathError::Control));
        assert_eq!(at_home(b"\xff"), Err(PathError::NotUtf8));
        assert_eq!(at_home(b"/\xc0\xae\xc0\xae/x"), Err(PathError::NotUtf8));
        assert_eq!(at_home(&vec![b'/'; MAX_PATH + 1]), Err(PathError::TooLong));
        assert_eq!(at_home(&[b'a'; MAX_COMPONENT + 1]), Err(PathError::TooLong));
        assert_eq!(at_home("/a".repeat(MAX_COMPONENTS + 1).as_bytes()), Err(PathError::TooLong));
        assert!(at_home("/a".repeat(MAX_COMPONENTS).as_bytes()).is_ok());
        for name in ["", ".", "..", "a/b", "/"] {
            assert_eq!(VPath::root().join(name), Err(PathError::NotAName), "{name:?}");
        }
    }

    #[test]
    fn family() {
        let p = VPath::absolute("/a/b").unwrap();
        assert_eq!(p.name(), Some("b"));
        assert_eq!(p.parent().unwrap().to_string(), "/a");
        assert_eq!(VPath::root().parent(), None);
        assert!(p.is_within(&VPath::root()) && p.is_within(&p) && !p.is_within(&VPath::absolute("/a/bc").unwrap()));
        assert_eq!(p.join("c").unwrap().to_string(), "/a/b/c");
    }

    proptest! {
        #[test]
        fn never_climbs(bytes in proptest::collection::vec(any::<u8>(), 0..200), dots in "[./a]{0,60}") {
            for given in [bytes.as_slice(), dots.as_bytes()] {
                if let Ok(p) = VPath::parse(given, &VPath::root()) {
                    for c in p.components() {
                        prop_assert!(!c.is_empty() && c != "." && c != ".." && !c.contains('/') && !c.chars().any(char::is_control));
                    }
                    // The text form parses to the same value.
                    prop_assert_eq!(VPath::absolute(&p.to_string()).unwrap(), p);
                }
            }
        }
    }
}
