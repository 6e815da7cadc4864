//! The bus of a server that is alone: a map.

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roundtable_core::RoomId;
use roundtable_signaling_protocol::{NodeId, Roster};

use super::{
    Answer, Bus, Letter, Notice, Pending, Record, Revision, RouteError, Stored, Unreachable,
};

#[derive(Debug)]
pub(crate) struct MemoryBus {
    node: NodeId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Revision,
    records: HashMap<RoomId, Record>,
}

impl MemoryBus {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, room: &RoomId, expected: Revision, roster: &Arc<Roster>) -> Stored {
        let mut state = self.state();
        let revision = state.records.get(room).map_or(0, |record| record.revision);
        if revision != expected {
            return Stored::Conflict;
        }
        if roster.is_empty() {
            state.records.remove(room);
            return Stored::At(0);
        }
        state.last += 1;
        let record = Record {
            revision: state.last,
            roster: Arc::clone(roster),
        };
        let stored = Stored::At(record.revision);
        state.records.insert(room.clone(), record);
        stored
    }
}

impl Bus for MemoryBus {
    fn node(&self) -> &NodeId {
        &self.node
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn admits(&self) -> Result<(), Duration> {
        Ok(())
    }

    fn is_gone(&self, _: &NodeId) -> bool {
        false
    }

    fn elsewhere(&self) -> Vec<String> {
        Vec::new()
    }

    fn leads(&self) -> bool {
        false
    }

    fn load<'a>(&'a self, room: &'a RoomId) -> Pending<'a, Result<Record, Unreachable>> {
        let record = self.state().records.get(room).cloned();
        Box::pin(ready(Ok(record.unwrap_or_default())))
    }

    fn store<'a>(
        &'a self,
        room: &'a RoomId,
        expected: Revision,
        roster: &'a Arc<Roster>,
    ) -> Pending<'a, Result<Stored, Unreachable>> {
        Box::pin(ready(Ok(self.put(room, expected, roster))))
    }

    fn ask<'a>(
        &'a self,
        _: &'a NodeId,
        _: &'a RoomId,
        _: Letter,
    ) -> Pending<'a, Result<Answer, RouteError>> {
        Box::pin(ready(Err(RouteError::Dead)))
    }

    fn tell_all(&self, _: Notice) -> Pending<'_, ()> {
        Box::pin(ready(()))
    }

    fn rooms(&self) -> Pending<'_, Result<Vec<RoomId>, Unreachable>> {
        Box::pin(ready(Ok(self.state().records.keys().cloned().collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_changed_only_by_who_knows_its_latest_version() {
        let bus = MemoryBus::new(NodeId::new("n").unwrap());
        let room = RoomId::new("room").unwrap();
        let seat = r#"{"seats":[{"peer_id":"a","capabilities":["data"],"seat":"1","node":"n","resume":"1"}]}"#;
        let taken: Arc<Roster> = Arc::new(serde_json::from_str(seat).unwrap());
        let none = Arc::new(Roster::default());
        assert_eq!(bus.load(&room).await.unwrap().revision, 0);
        assert_eq!(bus.store(&room, 0, &taken).await, Ok(Stored::At(1)));
        assert_eq!(bus.store(&room, 0, &taken).await, Ok(Stored::Conflict));
        assert_eq!(bus.store(&room, 1, &taken).await, Ok(Stored::At(2)));
        assert_eq!(bus.load(&room).await.unwrap().roster, taken);
        assert_eq!(bus.store(&room, 2, &none).await, Ok(Stored::At(0)));
        assert_eq!(bus.rooms().await, Ok(Vec::new()));
        assert_eq!(bus.store(&room, 0, &taken).await, Ok(Stored::At(3)));
    }
}
