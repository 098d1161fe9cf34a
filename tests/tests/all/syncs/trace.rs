//! What `strace -f -y` wrote, read back: calls, and the order in which they began and ended.

use std::path::Path;

/// One call of one thread.
pub(super) struct Call {
    pub(super) name: String,
    /// The arguments in words; strings are left out of them.
    pub(super) args: Vec<String>,
    /// The strings among the arguments, in order.
    pub(super) strings: Vec<Vec<u8>>,
    /// What it gave; none if it failed or did not end.
    pub(super) value: Option<u64>,
    /// Where in the trace it began.
    pub(super) at: usize,
}

/// A call begins or ends. strace writes both as they happen: an end that stands before a beginning came before it.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    Begin(usize),
    End(usize),
}

/// All that happened, in order.
pub(super) struct Trace {
    pub(super) calls: Vec<Call>,
    pub(super) moments: Vec<Moment>,
}

impl Call {
    /// The number of the descriptor that stands first.
    pub(super) fn descriptor(&self) -> Option<u64> {
        self.args.first()?.split('<').next()?.parse().ok()
    }

    /// What the descriptor at this place of the arguments stands for: a path, `socket:[…]`. Nothing of a file without a name.
    pub(super) fn target(&self, place: usize) -> Option<&str> {
        let arg = self.args.get(place)?;
        let (begin, end) = (arg.find('<')?, arg.rfind('>')?);
        (end + 1 == arg.len()).then(|| &arg[begin + 1..end])
    }

    pub(super) fn is_on(&self, place: impl AsRef<Path>) -> bool {
        self.target(0).is_some_and(|target| Path::new(target) == place.as_ref())
    }

    pub(super) fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync" | "syncfs" | "sync")
    }

    /// Bytes to a socket.
    pub(super) fn is_answer(&self) -> bool {
        let writes = matches!(self.name.as_str(), "sendto" | "sendmsg" | "write" | "writev");
        writes && self.target(0).is_some_and(|target| target.starts_with("socket:"))
    }

    pub(super) fn begins_with(&self, bytes: &[u8]) -> bool {
        self.strings.first().is_some_and(|string| string.starts_with(bytes))
    }

    fn begun(text: &str, at: usize) -> Option<Self> {
        let (name, args) = text.split_once('(')?;
        let (args, strings) = split(args);
        Some(Call {
            name: name.to_owned(),
            args,
            strings,
            value: None,
            at,
        })
    }
}

impl Trace {
    pub(super) fn read(text: &str) -> Self {
        let mut trace = Trace {
            calls: Vec::new(),
            moments: Vec::new(),
        };
        let mut open: Vec<(&str, usize)> = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let began = at;
            at += line.len();
            // The last line may be cut off.
            let Some((thread, rest)) = line.strip_suffix('\n').and_then(|line| line.split_once(' ')) else {
                continue;
            };
            let rest = rest.trim_start();
            if rest.starts_with("<...") {
                let place = open.iter().position(|(other, _)| *other == thread);
                let Some((_, call)) = place.map(|place| open.swap_remove(place)) else {
                    continue;
                };
                trace.ends(call, rest);
            } else if let Some(text) = rest.strip_suffix(" <unfinished ...>") {
                open.extend(trace.begins(text, began).map(|call| (thread, call)));
            } else if let Some((text, _)) = rest.rsplit_once(" = ")
                && let Some(call) = trace.begins(text.trim_end().trim_end_matches(')'), began)
            {
                trace.ends(call, rest);
            }
        }
        trace
    }

    fn begins(&mut self, text: &str, at: usize) -> Option<usize> {
        self.calls.push(Call::begun(text, at)?);
        self.moments.push(Moment::Begin(self.calls.len() - 1));
        Some(self.calls.len() - 1)
    }

    fn ends(&mut self, call: usize, line: &str) {
        let value = line
            .rsplit_once(" = ")
            .map(|(_, value)| value.split([' ', '<']).next().unwrap_or_default());
        self.calls[call].value = value.and_then(|value| value.parse().ok());
        self.moments.push(Moment::End(call));
    }
}

/// Arguments at their commas, and the strings among them.
fn split(text: &str) -> (Vec<String>, Vec<Vec<u8>>) {
    let (mut args, mut strings) = (vec![String::new()], Vec::new());
    let (mut depth, mut rest) = (0, text);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => {
                let (string, after) = unquoted(rest);
                strings.push(string);
                rest = after;
                assert!(!rest.starts_with("..."), "strace cut a string off: -s is too small");
                continue;
            }
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                args.push(String::new());
                rest = rest.trim_start();
                continue;
            }
            _ => {}
        }
        args.last_mut().unwrap().push(c);
    }
    (args, strings)
}

/// A string up to its closing quote, with C's escapes, and what follows.
fn unquoted(text: &str) -> (Vec<u8>, &str) {
    let bytes = text.as_bytes();
    let (mut string, mut at) = (Vec::new(), 0);
    while bytes[at] != b'"' {
        if bytes[at] != b'\\' {
            string.push(bytes[at]);
            at += 1;
            continue;
        }
        let digits = bytes[at + 1..]
            .iter()
            .take(3)
            .take_while(|byte| (b'0'..=b'7').contains(byte))
            .count();
        if digits > 0 {
            let octal = &text[at + 1..at + 1 + digits];
            string.push(u8::from_str_radix(octal, 8).unwrap());
            at += 1 + digits;
            continue;
        }
        string.push(match bytes[at + 1] {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'f' => 0x0c,
            other => other,
        });
        at += 2;
    }
    (string, &text[at + 1..])
}
