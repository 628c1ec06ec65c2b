//! Transfers in virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use phantom_model::NodeId;

use super::lane::Duplex;
use super::*;

const SENDER: NodeId = NodeId([1; 32]);
const RECEIVER: NodeId = NodeId([2; 32]);
const STALL: Duration = Duration::from_secs(10);

/// Stores nothing, and takes its time.
struct Slow(Duration);

#[async_trait]
impl ExtentSink for Slow {
    async fn write(&self, _: u32, _: u64, _: &[u8]) -> std::io::Result<()> {
        tokio::time::sleep(self.0).await;
        Ok(())
    }
}

/// Sends `pieces` of the largest size over lanes that swallow all of them at once, to a receiver
/// that needs `each` for one.
async fn transfer(pieces: u64, each: Duration) -> [Result<BulkReport, BulkError>; 2] {
    let arrivals = Arrivals::new(Arc::new(|_, _| {}));
    let options = BulkOptions { stall: STALL, ..BulkOptions::default() };
    let mut receiver = arrivals.announce(SENDER, options, Delivery::Sink(Arc::new(Slow(each))));
    let ticket = receiver.ticket();
    let mut lanes: Vec<Box<dyn Duplex>> = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = tokio::io::duplex(64 << 20);
        lanes.push(Box::new(ours));
        let arrivals = arrivals.clone();
        let path = BulkPath::NodeConnection;
        tokio::spawn(async move { arrivals.lane_on(SENDER, Box::new(theirs), path).await });
    }
    let send = async {
        let path = BulkPath::NodeConnection;
        let mut sender = connect(RECEIVER, ticket, lanes, path, &options, Box::new(|_| {})).await?;
        for n in 0..pieces {
            let bytes = Bytes::from(vec![7; MAX_PIECE]);
            sender.send(Extent { object: 0, offset: n * MAX_PIECE as u64, bytes }).await?;
        }
        sender.finish().await
    };
    let (sent, received) = tokio::join!(send, receiver.finished());
    [sent, received]
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_is_waited_for_however_much_lies_in_between() {
    for outcome in transfer(40, STALL / 3).await {
        let report = outcome.unwrap();
        assert_eq!(report.bytes, 40 * MAX_PIECE as u64);
        assert!(report.elapsed > 6 * STALL, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_stands_still_is_not() {
    let [sent, received] = transfer(40, STALL * 100).await;
    assert!(matches!(sent, Err(BulkError::Stalled { .. } | BulkError::Broken { .. })), "{sent:?}");
    assert!(matches!(received, Err(BulkError::Stalled { .. })), "{received:?}");
}
