//! The whole system through its public doors: processes, sockets, files and clients that others wrote.
//!
//! One module per subject. Each test is named after the rule that it holds the product to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backup;
mod balancer;
mod cli;
mod clients;
mod crash;
mod differential;
mod examples;
mod inbound;
mod lifecycle;
mod logins;
mod main_job;
mod mdn;
mod memory;
mod negative;
mod partner_connections;
mod partner_settings;
mod partner_test;
mod python_peer;
mod restart;
mod rights;
mod sessions;
mod sftp_protocol;
mod sftp_safety;
mod sockets;
mod standards;
mod stores;
mod syncs;
mod tls_door;
mod uploads;
mod urls;
mod users;
mod zips;
