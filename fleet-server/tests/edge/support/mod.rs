pub mod broker;
pub mod mini;
