//! Cuts a multipart body at its boundaries while it streams by (RFC 2046 §5.1.1).
//!
//! The line end before a delimiter belongs to the delimiter; every other byte belongs to the part, exactly as it came. Lines may
//! end in LF alone. A delimiter counts only if blanks and a line end follow it.

use memchr::memmem::Finder;

use super::broken;
use crate::error::Error;

/// Longest boundary taken; RFC 2046 says 70.
const MAX_BOUNDARY: usize = 200;
/// Most bytes before the first delimiter.
const MAX_PREAMBLE: usize = 64 * 1024;
/// Most blanks after a delimiter.
const MAX_PADDING: usize = 128;

/// What the scanner found.
pub(crate) enum Piece<'b> {
    /// A part begins.
    Start,
    /// Bytes of the part.
    Data(&'b [u8]),
    /// The part has ended at a delimiter.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Preamble,
    Part,
    Epilogue,
    /// The input ended in a delimiter.
    Cut,
}

/// What a delimiter does beside ending the part before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    Opens,
    Closes,
    /// COMPAT(Drummond 3Q09-5): nothing, for the input ends there: the dashes behind it were cut off.
    Breaks,
}

/// A multipart body in progress.
pub(crate) struct Scanner {
    /// LF, two dashes, the boundary.
    finder: Finder<'static>,
    needle: Vec<u8>,
    state: State,
    /// The next byte begins a line.
    line_start: bool,
    /// The tail of the last push that could begin a delimiter.
    held: Vec<u8>,
    preamble: usize,
    trailing_bytes: bool,
}

/// What stands at a place where a delimiter could be.
enum Look {
    /// A delimiter that ends before this index.
    Delimiter(usize, Mark),
    /// Content.
    No,
    /// Too few bytes to tell.
    More,
}

impl Scanner {
    pub(crate) fn new(boundary: Option<&str>) -> Result<Self, Error> {
        let boundary = boundary.map(str::trim_end).filter(|b| !b.is_empty() && b.len() <= MAX_BOUNDARY);
        let boundary = boundary.ok_or_else(|| broken("a multipart without a usable boundary"))?;
        let needle = [b"\n--", boundary.as_bytes()].concat();
        Ok(Scanner {
            finder: Finder::new(&needle).into_owned(),
            needle,
            state: State::Preamble,
            line_start: true,
            held: Vec::new(),
            preamble: 0,
            trailing_bytes: false,
        })
    }

    /// Whether the closing delimiter was seen.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Epilogue
    }

    /// Whether anything but white space followed the closing delimiter.
    pub(crate) fn has_epilogue(&self) -> bool {
        self.trailing_bytes
    }

    /// Takes the next bytes.
    pub(crate) fn push<E: From<Error>>(&mut self, bytes: &[u8], take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        self.run(bytes, false, take)
    }

    /// The body is complete. A part that is still open then stays without its [`Piece::End`].
    pub(crate) fn finish<E: From<Error>>(&mut self, take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        self.run(&[], true, take)
    }

    fn run<E: From<Error>>(&mut self, bytes: &[u8], last: bool, take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.held.is_empty() {
            let used = self.scan(bytes, last, take)?;
            self.held.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        let used = self.scan(&joined, last, take)?;
        joined.drain(..used);
        self.held = joined;
        Ok(())
    }

    /// Works through `buffer` and says how many bytes are done with.
    fn scan<E: From<Error>>(&mut self, buffer: &[u8], last: bool, take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>) -> Result<usize, E> {
        let mut at = 0;
        loop {
            let rest = buffer.get(at..).unwrap_or_default();
            if self.state == State::Epilogue {
                self.trailing_bytes |= rest.iter().any(|b| !b.is_ascii_whitespace());
                return Ok(buffer.len());
            }
            if self.line_start {
                match self.look(rest, self.needle.get(1..).unwrap_or_default(), last) {
                    Look::Delimiter(len, mark) => {
                        self.delimiter(mark, take)?;
                        at += len;
                        continue;
                    }
                    Look::More => return Ok(at),
                    Look::No => self.line_start = false,
                }
            }
            match self.next(rest, last) {
                (content, Look::Delimiter(len, mark)) => {
                    self.content(rest.get(..content).unwrap_or_default(), take)?;
                    self.delimiter(mark, take)?;
                    at += len;
                }
                (content, _) => {
                    self.content(rest.get(..content).unwrap_or_default(), take)?;
                    return Ok(at + content);
                }
            }
        }
    }

    /// The next delimiter in `rest`, with the number of content bytes before it. Without one, the bytes that are surely content.
    fn next(&self, rest: &[u8], last: bool) -> (usize, Look) {
        let mut from = 0;
        while let Some(found) = self.finder.find(rest.get(from..).unwrap_or_default()) {
            let feed = from + found;
            let content = if feed > 0 && rest.get(feed - 1) == Some(&b'\r') {
                feed - 1
            } else {
                feed
            };
            match self.look(rest.get(feed..).unwrap_or_default(), &self.needle, last) {
                Look::Delimiter(len, mark) => return (content, Look::Delimiter(feed + len, mark)),
                Look::More => return (content, Look::More),
                Look::No => from = feed + 1,
            }
        }
        if last {
            return (rest.len(), Look::No);
        }
        // Hold back what could be the beginning of a delimiter.
        let window = rest.len().saturating_sub(self.needle.len()).max(from);
        let tail = rest.get(window..).unwrap_or_default();
        let start = (0..tail.len()).find(|&i| tail.get(i..).is_some_and(|t| self.needle.starts_with(t)));
        let mut content = start.map_or(rest.len(), |i| window + i);
        if content > 0 && rest.get(content - 1) == Some(&b'\r') {
            content -= 1;
        }
        (content, Look::More)
    }

    /// Whether `bytes` begin with `needle`, perhaps `--`, blanks, and a line end.
    fn look(&self, bytes: &[u8], needle: &[u8], last: bool) -> Look {
        let more = if last { Look::No } else { Look::More };
        if !bytes.starts_with(needle) {
            return if needle.starts_with(bytes) { more } else { Look::No };
        }
        let mut at = needle.len();
        let closing = bytes.get(at..at + 2) == Some(b"--");
        if closing {
            at += 2;
        } else if bytes.get(at..).is_some_and(|tail| tail == b"-") {
            return if last { Look::Delimiter(at + 1, Mark::Breaks) } else { Look::More };
        }
        let (mark, at_end) = if closing {
            (Mark::Closes, Mark::Closes)
        } else {
            (Mark::Opens, Mark::Breaks)
        };
        let blanks = bytes
            .get(at..)
            .unwrap_or_default()
            .iter()
            .take_while(|&&b| b == b' ' || b == b'\t')
            .count();
        if blanks > MAX_PADDING {
            return Look::No;
        }
        at += blanks;
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'\n'), _) => Look::Delimiter(at + 1, mark),
            (Some(b'\r'), Some(b'\n')) => Look::Delimiter(at + 2, mark),
            (Some(b'\r'), None) if !last => Look::More,
            (None, _) if !last => Look::More,
            (None, _) => Look::Delimiter(at, at_end),
            (Some(b'\r'), None) => Look::Delimiter(at + 1, at_end),
            _ => Look::No,
        }
    }

    fn content<E: From<Error>>(&mut self, bytes: &[u8], take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        match self.state {
            _ if bytes.is_empty() => Ok(()),
            State::Part => take(Piece::Data(bytes)),
            State::Preamble => {
                self.preamble += bytes.len();
                if self.preamble > MAX_PREAMBLE {
                    Err(broken("no boundary where the first part should begin").into())
                } else {
                    Ok(())
                }
            }
            State::Epilogue | State::Cut => Ok(()),
        }
    }

    fn delimiter<E: From<Error>>(&mut self, mark: Mark, take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.state == State::Part {
            take(Piece::End)?;
        }
        self.line_start = true;
        match mark {
            Mark::Closes => self.state = State::Epilogue,
            Mark::Breaks => self.state = State::Cut,
            Mark::Opens => {
                self.state = State::Part;
                take(Piece::Start)?;
            }
        }
        Ok(())
    }
}

/// The parts of a body that is in memory, each with its exact bytes, and whether the closing delimiter was there.
pub(crate) fn split(body: &[u8], boundary: Option<&str>, max_parts: usize) -> Result<(Vec<Vec<u8>>, bool), Error> {
    let mut scanner = Scanner::new(boundary)?;
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut take = |piece: Piece<'_>| {
        match piece {
            Piece::Start if parts.len() == max_parts => return Err(broken("too many parts")),
            Piece::Start => parts.push(Vec::new()),
            Piece::Data(bytes) => parts.last_mut().into_iter().for_each(|part| part.extend_from_slice(bytes)),
            Piece::End => {}
        }
        Ok(())
    };
    scanner.push(body, &mut take)?;
    scanner.finish(&mut take)?;
    Ok((parts, scanner.is_closed()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cut(body: &[u8], step: usize) -> (Vec<Vec<u8>>, bool, bool) {
        let mut scanner = Scanner::new(Some("b")).unwrap();
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut take = |piece: Piece<'_>| -> Result<(), Error> {
            match piece {
                Piece::Start => parts.push(Vec::new()),
                Piece::Data(bytes) => parts.last_mut().unwrap().extend_from_slice(bytes),
                Piece::End => parts.last_mut().unwrap().push(b'|'),
            }
            Ok(())
        };
        for chunk in body.chunks(step) {
            scanner.push(chunk, &mut take).unwrap();
        }
        scanner.finish(&mut take).unwrap();
        (parts, scanner.is_closed(), scanner.has_epilogue())
    }

    #[test]
    fn any_cut_gives_the_same_parts() {
        type Case<'a> = (&'a [u8], &'a [&'a [u8]], bool, bool);
        let bodies: [Case<'_>; 12] = [
            (b"--b\r\none\r\n--b\r\ntwo\r\n--b--\r\n", &[b"one|", b"two|"], true, false),
            (
                b"pre\r\namble\r\n--b \t\r\n\r\none\r\n\r\n\r\n--b--",
                &[b"\r\none\r\n\r\n|"],
                true,
                false,
            ),
            (b"--b\none\n--b\n\n--b--\n\n", &[b"one|", b"|"], true, false),
            (b"--b\r\n--b\r\n\r\n--b--\r\nend", &[b"|", b"|"], true, true),
            (
                b"--b\r\nx--b\r\n--bc\r\n--b-\r\n --b\r\n--b--x\r\n--b--\r\n",
                &[b"x--b\r\n--bc\r\n--b-\r\n --b\r\n--b--x|"],
                true,
                false,
            ),
            (b"--b\r\nopen\r\n", &[b"open\r\n"], false, false),
            (b"--b\r\nopen\r\n--b", &[b"open|"], false, false),
            (b"--b\r\nopen\r\n--b-", &[b"open|"], false, false),
            (b"--b\r\nopen\r\n--b \r", &[b"open|"], false, false),
            (b"--b", &[], false, false),
            (b"\r\n--b\r\na\r\r\n\n\r\n--b--\r\n", &[b"a\r\r\n\n|"], true, false),
            (b"nothing", &[], false, false),
        ];
        for (body, parts, closed, epilogue) in bodies {
            for step in 1..=body.len() {
                let (found, is_closed, has_epilogue) = cut(body, step);
                assert_eq!(found, parts, "{:?} by {step}", String::from_utf8_lossy(body));
                assert_eq!(
                    (is_closed, has_epilogue),
                    (closed, epilogue),
                    "{:?} by {step}",
                    String::from_utf8_lossy(body)
                );
            }
        }
    }

    #[test]
    fn a_body_without_its_boundary_is_given_up() {
        let mut scanner = Scanner::new(Some("b")).unwrap();
        let mut none = |_: Piece<'_>| -> Result<(), Error> { Ok(()) };
        assert!((0..20).any(|_| scanner.push(&[b'x'; 8192], &mut none).is_err()));
        assert!(Scanner::new(Some("")).is_err() && Scanner::new(None).is_err());
    }
}
