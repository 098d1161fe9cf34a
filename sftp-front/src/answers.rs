//! Answers on their way out, in request order but for those of what runs aside. The engine appends and never waits; the writer of
//! the channel takes them in batches. A READ stays a descriptor until its answer is about to be sent, and a run of READs of
//! one file is a single descriptor, so a client that asks for a whole file at once (paramiko does) costs no memory.

use crate::budget::Budget;
use crate::lock::locked;
use crate::packet::{self, Broken, Code, DATA_HEAD, MAX_DATA};
use crate::tree::Download;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

/// Most answers that wait for a client which does not read; a run of READs counts as one.
pub const MAX_WAITING_ANSWERS: usize = 65_536;
/// Most bytes of answers that wait for a client which does not read.
pub const MAX_WAITING_BYTES: usize = 16 << 20;
/// What a run of READs counts for while it waits, in bytes.
const RUN_COST: usize = 64;
/// Small answers are joined up to this length.
const JOIN: usize = 32 << 10;
/// Bytes read and sent in one go. One such batch is being sent while the next is read, which is all the memory that a
/// download takes; where the pool of all connections has no room for that, it is one READ at a time.
const BATCH: usize = 512 << 10;
/// Length of a batch's buffer: a batch passes its limit by at most one answer.
const BUFFER: usize = BATCH + MAX_DATA + MAX_FAULT;
/// Buffers that are kept, for so long after the last answer.
const KEPT_BUFFERS: usize = 3;
const KEEP_BUFFERS: Duration = Duration::from_secs(1);

/// Length of the buffer for one READ.
const SMALL_BUFFER: usize = DATA_HEAD + MAX_DATA + MAX_FAULT;

/// Answers to send.
pub(crate) struct ToSend {
    pub(crate) bytes: Vec<Bytes>,
    /// There is memory to get the next ones ready meanwhile.
    pub(crate) has_room: bool,
}

/// An answer, or many.
pub(crate) enum Answer {
    /// Encoded answers.
    Ready { bytes: Bytes, count: usize },
    /// READs whose data are still in the file.
    Reads(Reads),
}

/// `count` READs of one file: the k-th has the id `id + k` and begins at `offset + k * step`.
pub(crate) struct Reads {
    file: Arc<dyn Download>,
    id: u32,
    offset: u64,
    step: u32,
    count: u32,
}

impl Reads {
    fn continued_by(&self, file: &Arc<dyn Download>, id: u32, offset: u64, len: u32) -> bool {
        let ahead = u64::from(self.step)
            .checked_mul(u64::from(self.count))
            .and_then(|n| n.checked_add(self.offset));
        Arc::ptr_eq(&self.file, file)
            && self.step == len
            && self.count < u32::MAX
            && id == self.id.wrapping_add(self.count)
            && ahead == Some(offset)
    }

    /// Splits off the first `count` READs.
    fn split(&mut self, count: u32) -> Reads {
        let first = Reads {
            file: Arc::clone(&self.file),
            id: self.id,
            offset: self.offset,
            step: self.step,
            count,
        };
        self.id = self.id.wrapping_add(count);
        self.offset += u64::from(self.step) * u64::from(count);
        self.count -= count;
        first
    }
}

/// The queue between engine and writer.
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    finished: watch::Sender<bool>,
    aborted: watch::Sender<bool>,
    buffers: Arc<Buffers>,
}

/// Buffers for batches. Reusing them spares the pages of each new one from being zeroed, by the kernel and by us.
struct Buffers {
    budget: Arc<Budget>,
    kept: Mutex<Vec<(Box<[u8]>, OwnedSemaphorePermit)>>,
}

impl Buffers {
    fn kept(&self) -> MutexGuard<'_, Vec<(Box<[u8]>, OwnedSemaphorePermit)>> {
        locked(&self.kept)
    }

    /// A buffer for a batch if the pool has room for it, else one for a single READ.
    fn take(self: &Arc<Self>) -> Batch {
        let kept = self.kept().pop();
        let large = kept.or_else(|| Some((vec![0; BUFFER].into(), self.budget.batch(BUFFER)?)));
        let (buffer, permit) = match large {
            Some((buffer, permit)) => (buffer, Some(permit)),
            None => (vec![0; SMALL_BUFFER].into(), None),
        };
        Batch {
            buffer,
            len: 0,
            permit,
            home: Arc::clone(self),
        }
    }
}

/// Encoded answers in a buffer that goes home when they have been sent.
struct Batch {
    buffer: Box<[u8]>,
    len: usize,
    /// Its place in the pool; a small one has none.
    permit: Option<OwnedSemaphorePermit>,
    home: Arc<Buffers>,
}

impl Batch {
    /// The part of the buffer that is still free.
    fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.len..).unwrap_or_default()
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.room().get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// Moves what it holds to `out`.
    fn flush(&mut self, out: &mut Vec<Bytes>) {
        if self.len > 0 {
            let next = self.home.take();
            out.push(Bytes::from_owner(std::mem::replace(self, next)));
        }
    }
}

impl AsRef<[u8]> for Batch {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut kept = self.home.kept();
        if kept.len() < KEPT_BUFFERS {
            kept.push((std::mem::take(&mut self.buffer), permit));
        }
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Answer>,
    answers: usize,
    bytes: usize,
    /// Of the batches that are being sent, what they count for.
    out: VecDeque<usize>,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let s = locked(&self.state);
        self.buffers.budget.taken(s.bytes + s.out.iter().sum::<usize>());
    }
}

impl Outbox {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        let buffers = Buffers {
            budget,
            kept: Mutex::default(),
        };
        Self {
            state: Mutex::default(),
            filled: Notify::new(),
            finished: watch::Sender::new(false),
            aborted: watch::Sender::new(false),
            buffers: Arc::new(buffers),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(crate) fn ready(&self, bytes: Bytes, count: usize) -> Result<(), Broken> {
        let charged = self.buffers.budget.answered(bytes.len());
        let mut s = self.state();
        s.answers += count;
        s.bytes += bytes.len();
        s.queue.push_back(Answer::Ready { bytes, count });
        self.pushed(s).and(charged)
    }

    fn read(&self, file: &Arc<dyn Download>, id: u32, offset: u64, len: u32) -> Result<(), Broken> {
        let mut s = self.state();
        if let Some(Answer::Reads(last)) = s.queue.back_mut()
            && last.continued_by(file, id, offset, len)
        {
            last.count += 1;
            return Ok(());
        }
        s.answers += 1;
        s.bytes += RUN_COST;
        s.queue.push_back(Answer::Reads(Reads {
            file: Arc::clone(file),
            id,
            offset,
            step: len,
            count: 1,
        }));
        let charged = self.buffers.budget.answered(RUN_COST);
        self.pushed(s).and(charged)
    }

    fn pushed(&self, s: MutexGuard<'_, State>) -> Result<(), Broken> {
        let flood = s.answers > MAX_WAITING_ANSWERS || s.bytes > MAX_WAITING_BYTES;
        drop(s);
        self.filled.notify_one();
        if flood { Err(Broken::NotReading) } else { Ok(()) }
    }

    /// No more answers will come; those that wait are still sent.
    pub(crate) fn finish(&self) {
        self.finished.send_replace(true);
        self.filled.notify_one();
    }

    /// Nobody will read any answer.
    pub(crate) fn abort(&self) {
        self.aborted.send_replace(true);
        let mut s = self.state();
        let unread = std::mem::take(&mut s.bytes);
        s.answers = 0;
        let dropped = std::mem::take(&mut s.queue);
        drop(s);
        drop(dropped);
        self.buffers.budget.taken(unread);
    }

    pub(crate) async fn finished(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.finished.subscribe().wait_for(|v| *v).await;
    }

    pub(crate) async fn aborted(&self) {
        let _ = self.aborted.subscribe().wait_for(|v| *v).await;
    }

    /// All answers so far have been handed to the transport.
    pub(crate) fn is_idle(&self) -> bool {
        let s = self.state();
        s.queue.is_empty() && s.out.is_empty()
    }

    /// The next batch of encoded answers; `None` at the end. [`sent`](Self::sent) must follow for each batch.
    pub(crate) async fn next(&self) -> Option<ToSend> {
        loop {
            // Before the queue, or a last push between the two would be lost.
            let finished = *self.finished.borrow();
            let (batch, filling) = self.take();
            if batch.is_empty() {
                if finished {
                    return None;
                }
                if tokio::time::timeout(KEEP_BUFFERS, self.filled.notified()).await.is_err() {
                    self.buffers.kept().clear();
                    self.filled.notified().await;
                }
                continue;
            }
            let Some(filling) = filling else {
                let bytes = batch
                    .into_iter()
                    .filter_map(|a| if let Answer::Ready { bytes, .. } = a { Some(bytes) } else { None });
                return Some(ToSend {
                    bytes: bytes.collect(),
                    has_room: true,
                });
            };
            let has_room = filling.permit.is_some();
            return match tokio::task::spawn_blocking(move || fill(batch, filling)).await {
                Ok((bytes, pause)) => {
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    Some(ToSend { bytes, has_room })
                }
                Err(e) => {
                    tracing::error!("reading a file failed: {e}");
                    None
                }
            };
        }
    }

    /// A batch has been handed to the transport.
    pub(crate) fn sent(&self) {
        let bytes = self.state().out.pop_front().unwrap_or_default();
        self.buffers.budget.taken(bytes);
        self.buffers.budget.is_read();
    }

    /// What goes into one batch, and the buffer for its data if there are any.
    fn take(&self) -> (Vec<Answer>, Option<Batch>) {
        let (mut batch, mut size, mut ready) = (Vec::new(), 0, 0);
        let mut s = self.state();
        let filling = matches!(s.queue.front(), Some(Answer::Reads(_))).then(|| self.buffers.take());
        let is_small = filling.as_ref().is_some_and(|f| f.permit.is_none());
        let limit = if is_small { 1 } else { BATCH };
        while size < limit {
            match s.queue.pop_front() {
                None => break,
                Some(reads @ Answer::Reads(_)) if filling.is_none() => {
                    s.queue.push_front(reads);
                    break;
                }
                Some(Answer::Ready { bytes, count }) => {
                    size += bytes.len();
                    ready += bytes.len();
                    s.answers = s.answers.saturating_sub(count);
                    s.bytes = s.bytes.saturating_sub(bytes.len());
                    batch.push(Answer::Ready { bytes, count });
                }
                Some(Answer::Reads(mut run)) => {
                    // A read of one byte costs more than that one: its answer is a packet of its own.
                    let one = data_len(run.step).max(1) + ANSWER_COST;
                    let room = u32::try_from((limit - size).div_ceil(one)).unwrap_or(u32::MAX);
                    if run.count > room {
                        batch.push(Answer::Reads(run.split(room)));
                        s.queue.push_front(Answer::Reads(run));
                        break;
                    }
                    size += one * usize::try_from(run.count).unwrap_or(usize::MAX);
                    ready += RUN_COST;
                    s.answers = s.answers.saturating_sub(1);
                    s.bytes = s.bytes.saturating_sub(RUN_COST);
                    batch.push(Answer::Reads(run));
                }
            }
        }
        if !batch.is_empty() {
            s.out.push_back(ready);
        }
        (batch, filling)
    }
}

/// What an answer takes beside its data, in bytes.
const ANSWER_COST: usize = 128;
/// Room for an answer that is a status instead of data.
const MAX_FAULT: usize = 1 << 10;

fn data_len(asked: u32) -> usize {
    usize::try_from(asked).unwrap_or(MAX_DATA).min(MAX_DATA)
}

/// Reads the data of a batch, on a blocking thread, and says how long they have to wait.
fn fill(batch: Vec<Answer>, mut filling: Batch) -> (Vec<Bytes>, Duration) {
    let (mut out, mut pause) = (Vec::new(), Duration::ZERO);
    for answer in batch {
        match answer {
            Answer::Ready { bytes, .. } => {
                filling.flush(&mut out);
                out.push(bytes);
            }
            Answer::Reads(run) => {
                let mut offset = run.offset;
                for k in 0..run.count {
                    if filling.room().len() < data_len(run.step) + MAX_FAULT {
                        filling.flush(&mut out);
                    }
                    let n = data(&mut filling, &*run.file, run.id.wrapping_add(k), offset, run.step);
                    pause = pause.max(run.file.pause(n));
                    offset = offset.saturating_add(u64::from(run.step));
                }
            }
        }
    }
    filling.flush(&mut out);
    (out, pause)
}

/// One READ as DATA, or as a status at the end of the file and for a fault; the bytes read.
fn data(out: &mut Batch, file: &dyn Download, id: u32, offset: u64, asked: u32) -> usize {
    let end = DATA_HEAD + data_len(asked);
    let room = out.room().get_mut(DATA_HEAD..end).unwrap_or_default();
    let mut status = BytesMut::new();
    let read = full_read(room, offset, |at, buf| file.read_at(at, buf));
    let n = read.as_ref().copied().unwrap_or(0);
    match read {
        Ok(0) => packet::status(&mut status, id, Code::Eof, "end of file"),
        Ok(n) => {
            out.put(&packet::data_head(id, n));
            out.len += n;
        }
        Err(f) => packet::fault(&mut status, id, &f),
    }
    out.put(&status);
    n
}

/// Reads until `buf` is full or the file ends; the bytes read. A fault after some bytes waits for the next READ.
pub(crate) fn full_read<F>(buf: &mut [u8], offset: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, F>) -> Result<usize, F> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..)
        && !rest.is_empty()
    {
        let limit = rest.len();
        match read(offset.saturating_add(done as u64), rest) {
            Ok(0) => break,
            Ok(n) => done += n.min(limit),
            Err(f) if done == 0 => return Err(f),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// The engine's end of the queue: joins small answers until they are worth handing over.
pub(crate) struct Answers<'a> {
    outbox: &'a Outbox,
    small: BytesMut,
    count: usize,
}

impl<'a> Answers<'a> {
    pub(crate) fn new(outbox: &'a Outbox) -> Self {
        Self {
            outbox,
            small: BytesMut::new(),
            count: 0,
        }
    }

    /// Appends one encoded answer.
    pub(crate) fn put(&mut self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), Broken> {
        encode(&mut self.small);
        self.count += 1;
        if self.small.len() >= JOIN { self.flush() } else { Ok(()) }
    }

    /// Appends the promise of a DATA answer.
    pub(crate) fn read(&mut self, file: &Arc<dyn Download>, id: u32, offset: u64, len: u32) -> Result<(), Broken> {
        self.flush()?;
        self.outbox.read(file, id, offset, len)
    }

    /// Hands over what was appended.
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        if self.small.is_empty() {
            return Ok(());
        }
        // A buffer of just that length: one that has grown by doubling would hold more than the budget counts.
        let bytes = Bytes::copy_from_slice(&self.small);
        self.small.clear();
        self.outbox.ready(bytes, std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::budget::Pool;
    use crate::tree::{Fault, Stat};

    struct Counting(u64);
    impl Download for Counting {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
            // Short reads on purpose: at most 1,000 bytes.
            let n = usize::try_from(self.0.saturating_sub(offset)).unwrap().min(buf.len()).min(1000);
            buf[..n].iter_mut().enumerate().for_each(|(i, b)| *b = (offset + i as u64) as u8);
            Ok(n)
        }
        fn stat(&self) -> Result<Stat, Fault> {
            Err(Fault::unsupported())
        }
    }

    fn packets(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while let Some(length) = bytes.first_chunk::<4>() {
            let (one, rest) = bytes.split_at(4 + usize::try_from(u32::from_be_bytes(*length)).unwrap());
            found.push(one);
            bytes = rest;
        }
        found
    }

    #[tokio::test]
    async fn a_flood_of_reads_is_one_descriptor() {
        let size = 40_000_000u64;
        let file: Arc<dyn Download> = Arc::new(Counting(size));
        let outbox = Outbox::new(Budget::new(Pool::new(4 * BUFFER)));
        let mut answers = Answers::new(&outbox);
        for k in 0..1_300u32 {
            answers.read(&file, 7u32.wrapping_add(k), u64::from(k) * 32_768, 32_768).unwrap();
        }
        assert_eq!(outbox.state().queue.len(), 1);
        answers.put(|b| packet::status(b, 9999, Code::Ok, "")).unwrap();
        answers.flush().unwrap();
        outbox.finish();
        let (mut next_id, mut at, mut eofs) = (7u32, 0u64, 0);
        while let Some(ToSend { bytes: batch, .. }) = outbox.next().await {
            assert!(batch.iter().map(Bytes::len).sum::<usize>() <= BATCH + MAX_DATA + JOIN);
            for b in batch.iter().flat_map(|bytes| packets(bytes)) {
                let id = u32::from_be_bytes(b[5..9].try_into().unwrap());
                match b[4] {
                    103 => {
                        assert_eq!((id, b[13]), (next_id, at as u8));
                        at += b.len() as u64 - 13;
                        next_id += 1;
                    }
                    _ if id == 9999 => {}
                    _ => {
                        assert_eq!(id, next_id);
                        next_id += 1;
                        eofs += 1;
                    }
                }
            }
            outbox.sent();
        }
        assert_eq!((at, next_id), (size, 1307));
        assert_eq!(eofs, 1300 - 1221);
        assert!(outbox.is_idle());
    }

    #[tokio::test]
    async fn without_room_in_the_pool_one_read_at_a_time() {
        let file: Arc<dyn Download> = Arc::new(Counting(1 << 20));
        let outbox = Outbox::new(Budget::new(Pool::new(BUFFER - 1)));
        let mut answers = Answers::new(&outbox);
        for k in 0..8u32 {
            answers.read(&file, k, u64::from(k) << 15, 1 << 15).unwrap();
        }
        for _ in 0..8 {
            let batch = outbox.next().await.unwrap();
            assert!(!batch.has_room);
            assert_eq!(batch.bytes.iter().map(Bytes::len).sum::<usize>(), DATA_HEAD + (1 << 15));
            outbox.sent();
        }
        assert!(outbox.is_idle());
    }

    #[test]
    fn a_client_that_does_not_read_is_cut() {
        let outbox = Outbox::new(Budget::new(Pool::new(4 * BUFFER)));
        let mut answers = Answers::new(&outbox);
        let flood = (0..200_000u32).find_map(|id| answers.put(|b| packet::status(b, id, Code::Ok, "")).err());
        assert_eq!(flood, Some(Broken::NotReading));
    }
}
