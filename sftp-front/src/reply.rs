//! What a request is answered with, and its encoding.

use crate::answers::Answers;
use crate::longname::longname;
use crate::packet::{self, Broken, Code, Name};
use crate::path::MAX_COMPONENT;
use crate::tree::{Download, Entry, Fault, Stat};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Entries in one answer to READDIR.
pub(crate) const PAGE: usize = 100;

/// The answer to a request, when it is not plain OK.
pub(crate) enum Reply {
    Ok,
    Eof,
    Handle([u8; 8]),
    Attrs(Stat),
    /// A single name, as REALPATH answers.
    Path(String),
    Page(Vec<Entry>),
    Data(Vec<u8>),
    /// DATA that is read when it is sent.
    Later(Arc<dyn Download>, u64, u32),
    Extended(BytesMut),
}

pub(crate) fn malformed() -> Fault {
    Fault::BadMessage("the request cannot be read".into())
}

/// The whole answer of what ran aside.
pub(crate) fn whole(id: u32, result: Result<Reply, Fault>) -> Bytes {
    let mut b = BytesMut::new();
    match result {
        Ok(reply) => encode(&mut b, id, &reply),
        Err(fault) => packet::fault(&mut b, id, &fault),
    }
    b.freeze()
}

pub(crate) fn answer(out: &mut Answers<'_>, id: u32, result: Result<Reply, Fault>) -> Result<(), Broken> {
    match result {
        Ok(Reply::Later(file, offset, len)) => out.read(&file, id, offset, len),
        Ok(reply) => out.put(|b| encode(b, id, &reply)),
        Err(fault) => out.put(|b| packet::fault(b, id, &fault)),
    }
}

fn encode(b: &mut BytesMut, id: u32, reply: &Reply) {
    match reply {
        Reply::Ok | Reply::Later(..) => packet::status(b, id, Code::Ok, ""),
        Reply::Eof => packet::status(b, id, Code::Eof, "end of file"),
        Reply::Handle(key) => packet::handle(b, id, key),
        Reply::Attrs(stat) => packet::attrs_answer(b, id, stat),
        Reply::Path(path) => packet::names(
            b,
            id,
            &[Name {
                name: path,
                longname: path,
                stat: None,
            }],
        ),
        Reply::Page(page) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            // Longer names cannot be asked for, and a page of 100 that fit stays far below the packet limit.
            let page = page.iter().filter(|e| e.name.len() <= MAX_COMPONENT).take(PAGE);
            let lines: Vec<_> = page.map(|e| (e, longname(&e.name, &e.stat, now))).collect();
            let names: Vec<_> = lines
                .iter()
                .map(|(e, line)| Name {
                    name: &e.name,
                    longname: line,
                    stat: Some(&e.stat),
                })
                .collect();
            packet::names(b, id, &names);
        }
        Reply::Data(data) => {
            b.put_slice(&packet::data_head(id, data.len()));
            b.put_slice(data);
        }
        Reply::Extended(body) => packet::extended_reply(b, id, |b| b.put_slice(body)),
    }
}
