//! A MIME entity that streams by: its header block, then whatever its content type makes of the body.

use super::layer::{Layer, is_text};
use super::parts::{Leaf, LeafHead, Related, Report};
use super::signed::Signed;
use super::{Failure, MAX_DEPTH, Walk};
use crate::error::Error;
use crate::headers::{Headers, MAX_BLOCK};
use crate::mic::Hashes;
use crate::mime::transfer::Base64;
use crate::mime::{Encoding, MediaType, broken, content_type, without_comments};

/// The first byte of a SET in DER or BER.
const SET: u8 = 0x31;

/// What the entity is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The HTTP message: its headers are known.
    Top,
    /// The content of a CMS layer.
    Content,
    /// The first part of `multipart/signed`.
    SignedPart,
    /// A part of `multipart/related`.
    Attachment,
}

/// Where an entity stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) depth: u8,
    /// CMS layers around it.
    pub(super) layers: u8,
    /// Inside decrypted content: no tolerance that an attacker could use.
    pub(super) decrypted: bool,
    pub(super) compressed: bool,
    /// A signature covers it.
    pub(super) signed: bool,
}

impl Place {
    /// One level deeper.
    pub(super) fn inside(self, kind: Kind) -> Result<Self, Error> {
        if self.depth >= MAX_DEPTH {
            return Err(broken("MIME entities nested too deep"));
        }
        Ok(Place {
            kind,
            depth: self.depth + 1,
            ..self
        })
    }

    /// Whether this block is the entity's header block, and not the beginning of a payload that came without one.
    fn takes_head(self, headers: &Headers, block: &[u8]) -> bool {
        match self.kind {
            Kind::Content if self.signed || self.compressed => is_mime(headers) || is_plain_block(block),
            // COMPAT(mendelson): behind encryption alone, a payload may be bare.
            Kind::Content => is_mime(headers),
            Kind::Top | Kind::SignedPart | Kind::Attachment => true,
        }
    }
}

enum State {
    /// The HTTP headers are the head.
    Top,
    /// Collecting the header block.
    Head(Vec<u8>),
    Body(Body),
}

/// An entity in progress.
pub(super) struct Entity {
    place: Place,
    state: State,
    /// The MIC of an unsigned message.
    tap: Option<Hashes>,
    /// The header block began like one.
    plausible: bool,
    first: Option<u8>,
    /// What the headers say about the encoding.
    seven_bit: bool,
}

/// What a body turned out to be.
pub(super) enum Body {
    Layer(Box<Layer>),
    Signed(Box<Signed>),
    Related(Box<Related>),
    Report(Report),
    Leaf(Leaf),
    /// The whole HTTP body in base64 around one of the others (as2.md Q36).
    Coded(Box<Coded>),
}

impl Entity {
    pub(super) fn top() -> Self {
        let place = Place {
            kind: Kind::Top,
            depth: 0,
            layers: 0,
            decrypted: false,
            compressed: false,
            signed: false,
        };
        Entity {
            place,
            state: State::Top,
            tap: None,
            plausible: true,
            first: None,
            seven_bit: false,
        }
    }

    pub(super) fn new(place: Place) -> Self {
        Entity {
            place,
            state: State::Head(Vec::new()),
            tap: None,
            plausible: false,
            first: None,
            seven_bit: false,
        }
    }

    /// The header block is complete.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// Whether a signature without attributes may cover it. Attributes that somebody signed could be passed off as the content of
    /// such a one, and they begin as a SET; a MIME entity, or what begins otherwise, is none (as2.md Q54, cms-streaming.md §5.5).
    pub(super) fn is_no_set(&self) -> bool {
        self.plausible || self.first != Some(SET)
    }

    /// Whether a mail system of old could have changed its line ends.
    pub(super) fn is_seven_bit(&self) -> bool {
        self.seven_bit
    }

    /// An MDN, or the fields of one.
    pub(super) fn is_report(&self) -> bool {
        matches!(self.state, State::Body(Body::Report(_)))
    }

    pub(super) fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        self.first = self.first.or(bytes.first().copied());
        let Some(rest) = self.head(bytes, walk)? else {
            return self.body(bytes, walk);
        };
        self.body(&rest, walk)
    }

    pub(super) fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        self.head(&[], walk)?;
        if let State::Head(held) = &mut self.state {
            // No blank line came: a block of MIME headers without a body, or no headers at all.
            let held = std::mem::take(held);
            let headers = Headers::parse_mime(&held).ok().filter(is_mime);
            match headers {
                Some(headers) => self.open(&headers, &held, walk)?,
                None if held.is_empty() && self.place.kind == Kind::Attachment => self.open(&Headers::new(), &held, walk)?,
                None => {
                    self.open_bare(walk)?;
                    self.body(&held, walk)?;
                }
            }
        }
        if let State::Body(body) = &mut self.state {
            body.finish(walk)?;
        }
        if let Some(tap) = self.tap.take() {
            walk.found.mic = walk.job.mic_of(None, &tap.finish()?);
        }
        Ok(())
    }

    /// Takes bytes of the header block. `None`: the block was complete before, all bytes are the body's; else those that are.
    fn head(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<Option<Vec<u8>>, Failure> {
        let held = match &mut self.state {
            State::Body(_) => return Ok(None),
            State::Top => {
                let headers = walk.job.headers;
                self.open(headers, &[], walk)?;
                return Ok(None);
            }
            State::Head(held) => held,
        };
        let from = held.len().saturating_sub(3);
        held.extend_from_slice(bytes);
        match head_end(held, from) {
            Some(end) if end <= MAX_BLOCK => {
                let mut head = std::mem::take(held);
                let rest = head.split_off(end);
                match Headers::parse_mime(&head) {
                    Ok(headers) if self.place.takes_head(&headers, &head) => {
                        self.open(&headers, &head, walk)?;
                        Ok(Some(rest))
                    }
                    _ => {
                        self.open_bare(walk)?;
                        head.extend(rest);
                        Ok(Some(head))
                    }
                }
            }
            None if held.len() <= MAX_BLOCK => Ok(Some(Vec::new())),
            _ => {
                let held = std::mem::take(held);
                self.open_bare(walk)?;
                Ok(Some(held))
            }
        }
    }

    /// Turns to the body. `head` is the block with its blank line.
    fn open(&mut self, headers: &Headers, head: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        self.plausible = is_mime(headers);
        let media = content_type(headers)?;
        if self.is_malleable(walk) {
            // Said at once, so that no work tells how far it got. Where there may be a signature inside, its own headers are covered by
            // none, and what they tolerate would tell about blocks that were put there.
            let is_layer = |media: &MediaType| media.is_cms() || media.essence == "multipart/signed";
            if !media.as_ref().is_some_and(is_layer) {
                return Err(broken("content without a signature").into());
            }
            if !is_text(head) {
                return Err(broken("a header block that is not ASCII").into());
            }
        }
        let encoding = Encoding::of(headers);
        self.seven_bit = match headers.get("Content-Transfer-Encoding").map(without_comments) {
            Some(word) => word.to_ascii_lowercase().contains("bit") || encoding == Encoding::QuotedPrintable,
            // What MIME says of a part that says nothing (RFC 2045 §6.1).
            None => true,
        };
        let body = Body::open(self.place, headers, media, &encoding, walk)?;
        let payload = matches!(body, Body::Leaf(_) | Body::Related(_));
        if payload && !self.place.signed && self.place.kind != Kind::Attachment {
            // Without headers for a plain message, with them behind any layer (as2.md §3).
            let mut tap = walk.job.hashes_at(self.place, &[walk.job.mic_digest(None)])?;
            tap.update(head)?;
            self.tap = Some(tap);
        }
        self.state = State::Body(body);
        Ok(())
    }

    /// It has to be signed, nothing outside of it is, and anybody may have altered it.
    fn is_malleable(&self, walk: &Walk<'_, '_>) -> bool {
        self.place.decrypted && !self.place.signed && walk.found.malleable && walk.job.policy.require_signed
    }

    /// COMPAT(mendelson): a bare payload behind a layer (as2.md Q6). Its name and type are those of the HTTP headers.
    fn open_bare(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let signature_lacks = walk.job.policy.require_signed && !self.place.signed;
        if self.place.kind != Kind::Content || (self.place.decrypted && signature_lacks) {
            return Err(broken("an entity without MIME headers").into());
        }
        walk.found.note("the payload had no MIME headers");
        if !self.place.signed {
            self.tap = Some(walk.job.hashes_at(self.place, &[walk.job.mic_digest(None)])?);
        }
        self.state = State::Body(Body::Leaf(Leaf::bare(walk)?));
        Ok(())
    }

    fn body(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let State::Body(body) = &mut self.state else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(tap) = &mut self.tap {
            tap.update(bytes)?;
        }
        body.push(bytes, walk)
    }
}

impl Body {
    fn open(
        place: Place,
        headers: &Headers,
        media: Option<MediaType>,
        encoding: &Encoding,
        walk: &mut Walk<'_, '_>,
    ) -> Result<Self, Failure> {
        let Some(media) = media else {
            return Ok(Body::Leaf(Leaf::new(LeafHead::of(headers, encoding), walk)?));
        };
        // Attachments are payload, whatever they look like.
        let layer_possible = place.kind != Kind::Attachment;
        if media.is_cms() && layer_possible {
            // Behind a signature it may be a file of that type.
            let file = place.signed.then(|| LeafHead::of(headers, encoding));
            return Ok(Body::Layer(Box::new(Layer::new(place, &media, file)?)));
        }
        let body = match media.essence.as_str() {
            "multipart/signed" if layer_possible => Body::Signed(Box::new(Signed::new(place, &media, walk)?)),
            "multipart/report" | "message/disposition-notification" if layer_possible => Body::Report(Report::new(media.clone())),
            "multipart/related" | "multipart/mixed" => Body::Related(Box::new(Related::new(place, &media)?)),
            _ => return Ok(Body::Leaf(Leaf::new(LeafHead::of(headers, encoding), walk)?)),
        };
        if place.kind == Kind::Top && *encoding == Encoding::Base64 {
            return Ok(Body::Coded(Box::new(Coded {
                decoder: None,
                decided: false,
                inner: body,
            })));
        }
        Ok(body)
    }

    fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        match self {
            Body::Layer(layer) => layer.push(bytes, walk),
            Body::Signed(signed) => signed.push(bytes, walk),
            Body::Related(related) => related.push(bytes, walk),
            Body::Report(report) => report.push(bytes),
            Body::Leaf(leaf) => leaf.push(bytes, walk),
            Body::Coded(coded) => coded.push(bytes, walk),
        }
    }

    fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        match self {
            Body::Layer(layer) => layer.finish(walk),
            Body::Signed(signed) => signed.finish(walk),
            Body::Related(related) => related.finish(walk),
            Body::Report(report) => report.finish(walk),
            Body::Leaf(leaf) => leaf.finish(walk),
            Body::Coded(coded) => coded.finish(walk),
        }
    }
}

/// A multipart HTTP body whose headers announce base64: decoded if it is, left alone if it begins with a boundary.
pub(super) struct Coded {
    decoder: Option<Base64>,
    decided: bool,
    inner: Body,
}

impl Coded {
    fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        if !self.decided {
            let Some(first) = bytes.iter().find(|b| !b.is_ascii_whitespace()) else {
                return Ok(());
            };
            self.decided = true;
            if *first != b'-' {
                walk.found.note("the HTTP body was in base64");
                self.decoder = Some(Base64::default());
            }
        }
        let Some(decoder) = &mut self.decoder else {
            return self.inner.push(bytes, walk);
        };
        let mut decoded = Vec::new();
        decoder.push(bytes, &mut decoded);
        self.inner.push(&decoded, walk)
    }

    fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        if let Some(decoder) = &mut self.decoder {
            let mut decoded = Vec::new();
            decoder.finish(&mut decoded);
            self.inner.push(&decoded, walk)?;
        }
        self.inner.finish(walk)
    }
}

/// A block that says something about MIME, and so is no payload that happens to hold colons.
fn is_mime(headers: &Headers) -> bool {
    headers.iter().any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name.starts_with("content-") || name == "mime-version"
    })
}

/// An empty block, or one of nothing but `Name: value`. Stricter than what else is read as headers, because EDI has colons too:
/// `UNA:+.? '` is no header.
fn is_plain_block(block: &[u8]) -> bool {
    block.split(|b| *b == b'\n').all(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let folded = line.first().is_none_or(|first| matches!(first, b' ' | b'\t'));
        let (name, value) = line.split_at(memchr::memchr(b':', line).unwrap_or(line.len()));
        let named = name.first().is_some_and(u8::is_ascii_alphabetic) && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        folded || named && matches!(value, b":" | [b':', b' ' | b'\t', ..])
    })
}

/// Where the body begins: after the first empty line.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.starts_with(b"\n") {
        return Some(1);
    }
    if bytes.starts_with(b"\r\n") {
        return Some(2);
    }
    let tail = bytes.get(from..)?;
    for feed in memchr::memchr_iter(b'\n', tail) {
        match (tail.get(feed + 1), tail.get(feed + 2)) {
            (Some(b'\n'), _) => return Some(from + feed + 2),
            (Some(b'\r'), Some(b'\n')) => return Some(from + feed + 3),
            _ => {}
        }
    }
    None
}
