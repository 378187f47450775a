//! What devices and operators touch first, over real sockets with real certificates. One binary, so that the broker and
//! the database are linked once.

#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::print_stderr)]

mod access;
mod api;
mod broker;
mod browser;
mod console;
mod enrolment;
mod support;
