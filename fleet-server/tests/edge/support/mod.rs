pub mod broker;
pub mod https;
pub mod mini;
pub mod server;
