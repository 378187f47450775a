pub mod broker;
pub mod browser;
pub mod fleet_shown;
pub mod https;
pub mod live_shown;
pub mod mini;
pub mod mosquitto;
pub mod server;
