//! Bulk transfers as the rest of the node sees them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use phantom_model::NodeId;
use tokio::time::Instant;

use super::Network;
use crate::bulk::{
    BulkOptions, BulkPath, BulkReceiver, BulkSender, BulkTicket, Delivery, ExtentSink, MAX_LANES,
    connect, tcp,
};
use crate::error::Error;
use crate::link::PeerAddr;
use crate::peer::table::Live;
use crate::service::ServiceId;

impl Network {
    /// Announces a bulk transfer from `node`; its pieces come out of [`BulkReceiver::next`].
    pub fn bulk_receive(&self, node: NodeId, options: BulkOptions) -> BulkReceiver {
        self.inner.bulk.announce(node, options, Delivery::Channel)
    }

    /// Announces a bulk transfer from `node` whose pieces go straight into `sink`: the fastest
    /// way.
    pub fn bulk_receive_into(
        &self,
        node: NodeId,
        options: BulkOptions,
        sink: Arc<dyn ExtentSink>,
    ) -> BulkReceiver {
        self.inner.bulk.announce(node, options, Delivery::Sink(sink))
    }

    /// Begins the bulk transfer `node` has announced with `ticket`: over TCP connections of its
    /// own if they can be made quickly, else over streams of the node connection.
    ///
    /// # Errors
    /// The node cannot be reached, or knows no such transfer.
    pub async fn bulk_send(
        &self,
        node: NodeId,
        ticket: BulkTicket,
        options: BulkOptions,
    ) -> Result<BulkSender, Error> {
        let within = self.inner.config.timing.handshake;
        let live = self.live(node, within).await?;
        let (mut lanes, mut path) = (Vec::new(), BulkPath::NodeConnection);
        if let Some(addr) = self.bulk_target(&live).filter(|_| options.tcp_lanes > 0) {
            let wait = self.inner.config.timing.bulk_dial;
            let count = options.tcp_lanes.min(MAX_LANES);
            let started = Instant::now();
            lanes = tcp::dial(&self.inner.tls, node, addr, count, wait).await;
            path = BulkPath::Tcp(addr);
            if lanes.is_empty() && started.elapsed() >= wait {
                // A firewall swallows it: the next transfers need not wait again.
                live.tcp_blocked.store(true, Ordering::Relaxed);
            }
        }
        if lanes.is_empty() {
            path = BulkPath::NodeConnection;
            for _ in 0..options.stream_lanes.clamp(1, MAX_LANES) {
                let stream = self.open(node, &ServiceId::BULK, &(), within).await?;
                lanes.push(Box::new(stream) as Box<_>);
            }
        }
        let inner = self.inner.clone();
        let account = Box::new(move |bytes| inner.table.count_bulk(node, 0, bytes));
        Ok(connect(node, ticket, lanes, path, &options, account).await?)
    }

    /// Where to dial for bulk lanes, if that is of use.
    fn bulk_target(&self, live: &Live) -> Option<SocketAddr> {
        let port = live.remote.bulk_port.filter(|_| self.inner.config.bulk_tcp)?;
        match live.connection.stats().path? {
            PeerAddr::Ip(addr) if !live.tcp_blocked.load(Ordering::Relaxed) => {
                Some((addr.ip(), port).into())
            }
            _ => None,
        }
    }
}
