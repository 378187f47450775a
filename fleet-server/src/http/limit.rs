//! How often one address may ask. Source: the generic cell rate algorithm (ITU-T I.371) in its virtual scheduling form.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered; above it those at rest are forgotten, and if there are none, all.
const ADDRESSES_MAX: usize = 10_000;

/// Lets each address ask so often per minute, as many of them at once. An IPv6 address counts by its /64, which one
/// customer has whole.
#[derive(Debug)]
pub struct RateLimiter {
    step: Duration,
    burst: Duration,
    next: Mutex<HashMap<IpAddr, Instant>>,
}

impl RateLimiter {
    /// `per_minute` is at least 1.
    pub fn new(per_minute: u32) -> Self {
        let step = Duration::from_secs(60) / per_minute.max(1);
        Self { step, burst: Duration::from_secs(60) - step, next: Mutex::default() }
    }

    /// Whether `addr` may ask now.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn admit(&self, addr: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.len() >= ADDRESSES_MAX {
            next.retain(|_, at| *at > now);
            if next.len() >= ADDRESSES_MAX {
                next.clear();
            }
        }
        let at = next.entry(network(addr)).or_insert(now);
        let early = at.saturating_duration_since(now);
        if early > self.burst {
            return Err(early - self.burst);
        }
        *at = now.max(*at) + self.step;
        Ok(())
    }
}

fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_by_one() {
        let limiter = RateLimiter::new(3);
        let (now, a) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        for _ in 0..3 {
            assert_eq!(limiter.admit(a, now), Ok(()));
        }
        assert_eq!(limiter.admit(a, now), Err(Duration::from_secs(20)));
        assert_eq!(limiter.admit(IpAddr::from([192, 0, 2, 2]), now), Ok(()));
        assert_eq!(limiter.admit(a, now + Duration::from_secs(20)), Ok(()));
        assert!(limiter.admit(a, now + Duration::from_secs(20)).is_err());
    }

    #[test]
    fn a_customers_ipv6_network_is_one_address_and_memory_is_bounded() {
        let limiter = RateLimiter::new(1);
        let now = Instant::now();
        let address =
            |network: u32, host: u64| IpAddr::V6(Ipv6Addr::from_bits(u128::from(network) << 64 | u128::from(host)));
        assert_eq!(limiter.admit(address(1, 1), now), Ok(()));
        assert!(limiter.admit(address(1, 2), now).is_err());
        for network in 0..30_000 {
            let _ = limiter.admit(address(network, 0), now);
        }
        assert!(limiter.next.lock().expect("not poisoned").len() <= ADDRESSES_MAX);
    }
}
