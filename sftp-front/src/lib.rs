//! An SSH server that speaks SFTP version 3 and nothing else, over traits that the program implements: an
//! [`Authenticator`] knows the accounts, a [`Tree`] is what one login sees, an [`Upload`] is a file being written. The crate
//! knows no accounts, no storage, and not what an upload triggers; it reports what the wire shows ([`UploadFacts`],
//! [`CloseSign`]) and leaves the meaning to others.
//!
//! # The way of a byte
//! * `server.rs` accepts the connection and applies the limits; `session.rs` watches over it (grace, idle, stop, kill), on
//!   one of the threads of `threads.rs`. What comes by a balancer waits in `balancer.rs` until `proxy.rs` has read who the
//!   client is.
//! * `link.rs` is the TCP stream that russh reads and decrypts; `handler.rs` has russh's callbacks: login, channels,
//!   refusals. `login.rs` knows what a client has proven so far, `auth.rs` has the algorithms and who is asked about a
//!   proof, `host_keys.rs` tells clients of keys to come.
//! * `channel.rs` takes the decrypted bytes of one channel and gives them to a worker: here, if they are quickly worked off,
//!   else on a blocking thread. **A packet enters there**, in `Channel::accept`.
//! * `engine.rs` runs the requests in order, but for OPEN, CLOSE and sync of an upload, which must not hold up the others:
//!   `packet.rs` cuts and reads them, `path.rs` parses every path once, `attrs.rs` the attributes, `writing.rs` has the open
//!   upload and `facts.rs` its record. **A byte lands** in `Engine::write`, which calls [`Upload::write_pieces`].
//! * Answers are encoded in `reply.rs` and leave through `answers.rs`; the data of a READ are fetched there just before they
//!   are sent. `longname.rs` makes the lines of a listing.
//!
//! The same channel serves a pipe instead of a connection in [`serve_pipe`]: `examples/sftp-stdio.rs` takes the place of an
//! `sftp-server` in suites that others wrote.
//!
//! # Limits
//! Each limit is a constant beside the code that enforces it. Those of the protocol are exported: [`MAX_PACKET`], [`MAX_DATA`],
//! [`MAX_HANDLES`], [`MAX_PATH`], [`MAX_ASIDE`], [`MAX_CLOSED_NAMES`], [`MAX_COMPONENTS`], [`MAX_COMPONENT`], [`MAX_EXTENTS`]; and
//! those of one connection's memory: [`REQUEST_BUDGET`], [`OWN_SHARE`], [`OWN_ANSWERS`], [`MAX_CHANNELS`],
//! [`MAX_WAITING_ANSWERS`], [`MAX_WAITING_BYTES`]. Buffers are private: read-ahead in `channel.rs`, batches in `answers.rs`, windows
//! in `server.rs`. How many connections there may be is a setting in [`Config`].
//! No code path holds a whole file: an upload holds at most the request budget, a download three buffers of 768 KiB, and all
//! connections together what `budget.rs` lets them.

#![warn(missing_docs)]

mod answers;
mod attrs;
mod auth;
mod balancer;
mod budget;
mod channel;
mod engine;
mod facts;
mod handler;
mod host_keys;
mod link;
mod lock;
mod login;
mod longname;
mod packet;
mod path;
mod proxy;
mod reply;
mod server;
mod session;
mod threads;
mod tree;
mod writing;

pub use answers::{MAX_WAITING_ANSWERS, MAX_WAITING_BYTES};
pub use auth::{
    Admission, AlgorithmPolicy, Authenticator, Certificate, MAX_CODE, MAX_PASSWORD, MAX_RSA_BITS, MAX_USER_NAME, MIN_RSA_BITS, Method,
    Peer, Presence, Proof, Proven, PublicKey, Refused, Step,
};
pub use balancer::Unnamed;
pub use budget::{MAX_CHANNELS, OWN_ANSWERS, OWN_SHARE, REQUEST_BUDGET};
pub use engine::{MAX_ASIDE, MAX_CLOSED_NAMES, MAX_HANDLES};
pub use facts::{MAX_EXTENTS, UploadFacts};
pub use handler::SFTP_ONLY;
pub use link::MAX_BEFORE_LOGIN;
pub use packet::{MAX_DATA, MAX_PACKET};
pub use path::{MAX_COMPONENT, MAX_COMPONENTS, MAX_PATH, PathError, VPath};
pub use server::{Config, Error, Server};
pub use session::{SessionInfo, WRITE_STALL, serve_pipe};
pub use tree::{
    CloseSign, Closed, Download, Entry, Fault, Kind, Listing, Op, OpenHow, SetStat, Space, Stat, Tree, Tried, Upload, Wait, Way,
};
