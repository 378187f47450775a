pub mod broker;
pub mod https;
pub mod mini;
pub mod mosquitto;
pub mod server;
