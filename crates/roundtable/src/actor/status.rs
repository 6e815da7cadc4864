//! What a room says of itself when it is asked.

use roundtable_command_log::CommandLog;
use roundtable_core::Observe;
use roundtable_session::{PeerView, Standing};
use roundtable_transport::Link;

use super::Actor;
use crate::{PeerStatus, Summary};

impl Actor {
    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let status = |view: PeerView| PeerStatus {
            author: match view.standing {
                Standing::Member(author) => Some(author),
                Standing::Handshaking | Standing::Guest => None,
            },
            guest: view.standing == Standing::Guest,
            links: view
                .links
                .iter()
                .filter_map(|link| {
                    let transport = &self.links.get(link.link)?.transport;
                    let mut stats = transport.stats();
                    stats.rtt = link.rtt.or(stats.rtt);
                    Some((transport.kind(), stats))
                })
                .collect(),
            peer: view.peer,
            messages: view.messages,
        };
        self.session.peers().map(status).collect()
    }

    pub(super) fn metrics(&self) -> String {
        let voice = self
            .voice
            .as_ref()
            .map(|voice| voice.handle().diagnostics());
        let voice = voice.as_deref().map(|voice| voice as &dyn Observe);
        let links = self.link_metrics();
        let parts = [Some(&self.session as &dyn Observe), Some(&links), voice];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        roundtable_telemetry::prometheus(&parts)
    }

    pub(super) fn summary(&self) -> Summary {
        let log = self.session.log();
        Summary {
            genesis: self.session.genesis().map(|genesis| genesis.hash()),
            state_hash: self.session.state_hash(),
            commands: log.map_or(0, |log| log.heads().iter().map(|head| head.nonce).sum()),
            frames: log.map_or(0, CommandLog::frame_count),
            peers: self.peers(),
        }
    }
}
