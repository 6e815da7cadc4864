//! The demo as one sees it: an invite link and a live table, until Ctrl-C.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use crate::demo::room::{NAME, NATIVES, PATIENCE, Room, RoomError, Setting};

/// How often the table is drawn anew on a terminal.
const REDRAW: Duration = Duration::from_millis(500);
/// How often it is printed where lines cannot be taken back.
const REPRINT: Duration = Duration::from_secs(5);

/// Opens the room, shows it until Ctrl-C, and closes it.
pub(crate) fn run(setting: Setting) -> Result<(), RoomError> {
    let folder = setting.folder.clone();
    let mut room = Room::open(setting)?;
    let shown = show(&mut room);
    eprintln!("\nleaving ...");
    let (_, ended) = room.close();
    for process in ended.iter().filter(|ended| ended.status.is_none()) {
        eprintln!("{} had to be killed", process.name);
    }
    match shown {
        Ok(()) | Err(RoomError::Stopped) => {
            let _ = fs::remove_dir_all(folder);
            Ok(())
        }
        Err(error) => {
            eprintln!("the logs are in {}", folder.display());
            Err(error)
        }
    }
}

fn show(room: &mut Room) -> Result<(), RoomError> {
    for native in NATIVES {
        room.join(native, &[])?;
        room.wait_joined(native.name, PATIENCE)?;
    }
    println!("\nThe room {NAME:?} is open: alice, bob and carol talk and draw in it.");
    println!("  Join from a browser:  {}", room.page("you"));
    if let Some(invite) = room
        .state
        .peers
        .values()
        .find_map(|peer| peer.invite.as_ref())
    {
        println!("  Invite link:          {invite}");
    }
    println!("  Leave with Ctrl-C.\n");
    let terminal = io::stdout().is_terminal();
    let pause = if terminal { REDRAW } else { REPRINT };
    let mut drawn = 0;
    loop {
        room.listen(pause)?;
        let table = room.state.table();
        if terminal && drawn > 0 {
            // Up over the old table, and away with it.
            print!("\x1b[{drawn}A\x1b[J");
        }
        println!("{table}");
        let _ = io::stdout().flush();
        drawn = table.lines().count() + 1;
    }
}
