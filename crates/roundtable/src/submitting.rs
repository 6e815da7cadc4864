//! What the user writes into the log.

use roundtable_command_log::{Action, CommandLog};
use roundtable_session::Input;

use crate::{
    SubmitError,
    actor::{Actor, Request},
};

impl Actor {
    pub(crate) fn request_about_checkpoints(&mut self, request: Request) {
        match request {
            Request::ProposeCheckpoint(reply) => {
                let _ = reply.send(self.about_checkpoints(Input::ProposeCheckpoint));
            }
            Request::Retire(author, reply) => {
                let _ = reply.send(self.about_checkpoints(Input::Retire { author }));
            }
            Request::Checkpoint(reply) => {
                let log = self.session.log();
                let _ = reply.send(log.and_then(CommandLog::checkpoint));
            }
            _ => {}
        }
    }

    pub(crate) fn submit(&mut self, actions: Vec<Action>) -> Result<(), SubmitError> {
        if self.durable.has_failed() {
            return Err(SubmitError::Storage);
        }
        Ok(self.input(Input::Submit { actions })?)
    }

    fn about_checkpoints(&mut self, input: Input) -> Result<(), SubmitError> {
        if self.durable.has_failed() {
            return Err(SubmitError::Storage);
        }
        Ok(self.input(input)?)
    }

    /// Submits a command that the log makes up, once it knows the own commands that still wait.
    pub(crate) fn submit_from_log(
        &mut self,
        command: impl FnOnce(&CommandLog) -> Option<Action>,
    ) -> Result<bool, SubmitError> {
        self.session.finish(self.now());
        self.carry_out();
        match self.session.log().and_then(command) {
            Some(command) => self.submit(vec![command]).map(|()| true),
            None => Ok(false),
        }
    }
}
