//! Stickpin: a sticky-session layer-7 load balancer that knows where the session lives.

pub mod config;

pub mod telemetry;

pub mod drain;

pub mod pool;

pub mod proxy;

pub mod control;

pub mod app;
