use std::net::Ipv4Addr;

/// The UDP port for datagrams unless told otherwise.
pub const DEFAULT_PORT: u16 = 41_611;

/// Where members and those that look for them meet: administratively scoped (RFC 2365).
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 41, 61);

/// Settings of [`crate::Discovery`].
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP port for datagrams; members of one local network use the same.
    pub port: u16,
    /// Whether to send to and listen to the group on the local network.
    pub multicast: bool,
    /// Higher than at every start before, see [`crate::machine::Membership::new`].
    pub generation: u64,
}
