//! What a WebRTC link promises beyond the conformance suite.

mod common;

use common::{SOON, pair};
use roundtable_core::{Channel, CloseCode, Frame};
use roundtable_transport::Link;
use roundtable_transport_webrtc::WebRtcLink;
use tokio::time::timeout;

async fn next(link: &WebRtcLink) -> Frame {
    timeout(SOON, link.recv()).await.expect("in time").unwrap()
}

#[tokio::test]
async fn every_data_channel_carries_messages_both_ways() {
    let (a, b) = pair().await;
    assert_eq!(a.binding(), b.binding());
    for channel in Channel::DATA {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let frame = Frame::binary(channel, vec![channel.number(); 100]);
            from.send(frame.clone()).await.unwrap();
            assert_eq!(next(to).await, frame);
        }
    }
    a.close(CloseCode::NORMAL, "").await;
    b.close(CloseCode::NORMAL, "").await;
}
