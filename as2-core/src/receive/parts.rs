//! What carries content: single payloads, attachments, reports.

use super::entity::{Entity, Kind, Place};
use super::{Failure, MAX_PARTS, PartInfo, Walk};
use crate::headers::Headers;
use crate::mdn::{MAX_REPORT, Mdn};
use crate::mime::scanner::{Piece, Scanner};
use crate::mime::transfer::Decoder;
use crate::mime::{Encoding, MediaType, broken, file_name, strange_name};

/// What the headers say about a payload.
pub(super) struct LeafHead {
    file_name: Option<String>,
    strange_name: Option<String>,
    content_type: Option<String>,
    encoding: Encoding,
}

impl LeafHead {
    pub(super) fn of(headers: &Headers, encoding: &Encoding) -> Self {
        let media = headers.get("Content-Type").map(MediaType::parse);
        LeafHead {
            file_name: file_name(headers),
            strange_name: strange_name(headers),
            content_type: media.map(|media| media.spelled).filter(|kind| !kind.is_empty()),
            encoding: encoding.clone(),
        }
    }
}

/// A payload.
pub(super) struct Leaf {
    decoder: Decoder,
    scratch: Vec<u8>,
}

impl Leaf {
    pub(super) fn new(head: LeafHead, walk: &mut Walk<'_, '_>) -> Result<Self, Failure> {
        if let Encoding::Unknown(word) = &head.encoding {
            walk.found.note(&format!("unknown transfer encoding {}", word.escape_default()));
        }
        note_strange(head.strange_name, walk);
        Leaf::begin(head.file_name, head.content_type, &head.encoding, walk)
    }

    /// A payload without headers of its own.
    pub(super) fn bare(walk: &mut Walk<'_, '_>) -> Result<Self, Failure> {
        let headers = walk.job.headers;
        note_strange(strange_name(headers), walk);
        let media = headers
            .get("Content-Type")
            .map(MediaType::parse)
            .filter(|media| !media.is_cms() && !media.is_multipart());
        Leaf::begin(file_name(headers), media.map(|media| media.spelled), &Encoding::Identity, walk)
    }

    fn begin(
        file_name: Option<String>,
        content_type: Option<String>,
        encoding: &Encoding,
        walk: &mut Walk<'_, '_>,
    ) -> Result<Self, Failure> {
        let index = walk.found.parts;
        if index == MAX_PARTS {
            return Err(broken("too many parts").into());
        }
        walk.found.parts += 1;
        let content_type = content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        walk.sink.part(PartInfo {
            index,
            file_name,
            content_type,
        })?;
        Ok(Leaf {
            decoder: Decoder::new(encoding),
            scratch: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        deliver(self.decoder.push(bytes, &mut self.scratch), walk)
    }

    pub(super) fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        self.scratch.clear();
        self.decoder.finish(&mut self.scratch);
        deliver(&self.scratch, walk)?;
        if let Decoder::Base64(decoder) = &self.decoder
            && decoder.strange
        {
            walk.found.note("characters outside of base64 were passed over");
        }
        Ok(walk.sink.part_end()?)
    }
}

fn note_strange(name: Option<String>, walk: &mut Walk<'_, '_>) {
    if let Some(name) = name {
        walk.found.note(&format!("a file name that cannot be read: {name}"));
    }
}

fn deliver(bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    walk.found.payload += bytes.len() as u64;
    if walk.found.payload > walk.job.limits.max_payload {
        return Err(broken("the payload is larger than the partner's limit").into());
    }
    Ok(walk.sink.data(bytes)?)
}

/// `multipart/related`, every part of which is a file (RFC 6362).
pub(super) struct Related {
    place: Place,
    scanner: Scanner,
    part: Option<Box<Entity>>,
}

impl Related {
    pub(super) fn new(place: Place, media: &MediaType) -> Result<Self, Failure> {
        Ok(Related {
            place: place.inside(Kind::Attachment)?,
            scanner: Scanner::new(media.param("boundary"))?,
            part: None,
        })
    }

    pub(super) fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let Related { place, scanner, part } = self;
        scanner.push(bytes, &mut |piece| take(piece, *place, part, walk))
    }

    pub(super) fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let Related { place, scanner, part } = self;
        scanner.finish(&mut |piece| take(piece, *place, part, walk))?;
        if !scanner.is_closed() {
            // COMPAT: the last boundary may be missing (as2.md Q43), except where a cut would be an oracle.
            if place.decrypted || walk.found.parts == 0 {
                return Err(broken("multipart content without its end").into());
            }
            walk.found.note("the closing boundary was missing");
        }
        match part.take() {
            Some(mut open) => open.finish(walk),
            None => Ok(()),
        }
    }
}

fn take(piece: Piece<'_>, place: Place, part: &mut Option<Box<Entity>>, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
    match (piece, part.as_mut()) {
        (Piece::Start, _) => *part = Some(Box::new(Entity::new(place))),
        (Piece::Data(bytes), Some(open)) => open.push(bytes, walk)?,
        (Piece::End, Some(open)) => {
            open.finish(walk)?;
            *part = None;
        }
        _ => {}
    }
    Ok(())
}

/// `multipart/report`: small, so it is read as a whole.
pub(super) struct Report {
    media: MediaType,
    body: Vec<u8>,
}

impl Report {
    pub(super) fn new(media: MediaType) -> Self {
        Report { media, body: Vec::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.body.len() + bytes.len() > MAX_REPORT {
            return Err(broken("a report that is too large").into());
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let mdn = Mdn::parse(&self.media, &self.body)?;
        walk.found.mdn = Some(mdn.ok_or_else(|| broken("a report without a disposition notification"))?);
        Ok(())
    }
}
