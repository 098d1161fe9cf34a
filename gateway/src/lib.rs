//! as2gate: a managed file transfer gateway, AS2 (RFC 4130) on one side, SFTP on the other.
//!
//! Rooms, from the outside in: **doors** translate and decide nothing, **flows** are the rules, **backends** keep bytes
//! and rows, the **vocabulary** is what all of them speak. Arrows go doors → flows → backends; `gateway.rs` wires them.

// Vocabulary.
pub mod account;
pub mod block;
pub mod certificate;
pub mod clock;
pub mod code;
pub mod config;
pub mod content_type;
pub mod event;
mod hint;
pub mod layout;
mod lock;
pub mod login;
pub mod message;
pub mod objects;
pub mod partner;
pub mod partnership;
pub mod presets;
mod random;
pub mod station;
pub mod text;
pub mod url;
pub mod user;
pub mod variables;
mod weight;

// Backends.
pub mod journal;
pub mod post;
pub mod storage;

// Flows.
pub mod flow_error;
mod helper;
pub mod inbox;
pub mod intake;
pub mod lifecycle;
pub mod manage;
pub mod outbox;
pub mod receipts;
pub mod worker;

// Doors.
pub mod cli;
pub mod http;
pub mod listen;
pub mod sftp_tree;
pub mod telemetry;

pub mod gateway;
