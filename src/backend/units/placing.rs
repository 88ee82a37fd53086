//! A launch in a session of units: slice and scope are started, the leaf is made and limited, the launcher moved in, and
//! each step proved from the kernel and from the manager.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::binding::Needs;
use super::handing::suffice;
use super::properties::{scope_properties, slice_limits, slice_properties};
use super::{Session, Units, lock, paths};
use crate::backend::held::{Access, CannotCopy, Held, HeldError, Step};
use crate::backend::{AdmitError, Unplaced, held};
use crate::cgroup::{
    Above, Admission, AdmitError as CgroupAdmitError, Cgroup, Controllers, Group, KnobError, Leaf, Membership, Scope,
    has_exited, is_exiting,
};
use crate::limits::Limits;
use crate::naming::{MACHINE_SLICE, SessionKey};
use crate::policy::{Lowering, Pass};
use crate::sys::bpf::Attach;
use crate::systemd::{Bus, Properties, SystemdError, Value};

/// How often an admission begins anew because the scope that it found died under it.
const TRIES: usize = 5;

/// How long a scope that was just started may take to be told as active.
const ACTIVE_MAX: Duration = Duration::from_secs(2);

/// Properties without which a scope still does what it is for; an older manager does not know all of them.
const MAY_LACK: &[&str] = &["OOMPolicy", "CollectMode", "CPUAccounting", "RuntimeMaxUSec"];

impl Units {
    /// Places a launcher in a new leaf, under its limits, and proves it.
    pub fn admit(&self, wanted: &Admission<'_>) -> Result<Leaf, Unplaced> {
        let from = Membership::of(wanted.pid).map_err(|_| CgroupAdmitError::LauncherGone)?;
        let held = self.held(&from, wanted)?;
        let mut needs = self.needs(&from, wanted)?;
        let session = self.session(wanted.key);
        let mut session = lock(&session);
        let mut tries = 0;
        let mut outlived: Vec<Box<Leaf>> = Vec::new();
        loop {
            tries += 1;
            let placed = match self.fitting_scope(&mut session, wanted.key, &mut needs) {
                Ok(Some(scope)) => {
                    let session = session.as_mut().expect("a session with a living scope is open");
                    self.join(session, scope, wanted, &held)
                }
                Ok(None) => self.begin(&mut session, wanted, &held, &mut needs),
                Err(error) => Err(error.into()),
            };
            let error = match placed {
                Ok(leaf) => {
                    // The launcher has left them; systemd forgot the scope that they stand in.
                    outlived.iter().for_each(|leaf| drop(leaf.remove()));
                    lock(&self.lingering).remove(wanted.key);
                    return Ok(leaf);
                }
                Err(error) => error,
            };
            if tries < TRIES && scope_died(&error.error) && !has_exited(wanted.pidfd) {
                outlived.extend(error.left);
                if let AdmitError::ScopeDied { unit, .. } = error.error {
                    needs.forgotten.push(unit);
                }
                continue;
            }
            let unplaced = self.withdraw(error, &from, wanted);
            lock(&self.lingering).insert(wanted.key.clone());
            return Err(unplaced);
        }
    }

    /// The launcher still has to print why: it goes back to where it came from, if it can.
    fn withdraw(&self, mut unplaced: Unplaced, from: &Membership, wanted: &Admission<'_>) -> Unplaced {
        if has_exited(wanted.pidfd) {
            unplaced.error = CgroupAdmitError::LauncherGone.into();
        }
        let directory = from.v2.as_deref().and_then(|cgroup| self.layout().v2().directory(cgroup));
        if let Some(directory) = directory.and_then(|path| Cgroup::open(path).ok()) {
            // Where it may not go back, it exits where it is: its leaf waits for that before it is removed.
            let _ = directory.write("cgroup.procs", &wanted.pid.to_string());
        }
        unplaced.left = unplaced.left.filter(|leaf| leaf.remove().is_err());
        unplaced
    }

    /// What the launcher would leave.
    fn held(&self, from: &Membership, wanted: &Admission<'_>) -> Result<Held, HeldError> {
        let mut held = Held::default();
        let Some(path) = from.v2.as_deref() else { return Err(HeldError::Invisible(from.clone())) };
        if self.locate(from).is_some() {
            // From one leaf of a session to another.
            return Ok(held);
        }
        let to = format!("{}/{}", self.machine, wanted.key.slice());
        let mut is_filtered = false;
        for step in held::steps(path, &to) {
            let cgroup = held::open(self.layout().v2(), from, &step.cgroup)?;
            held.add_limits(&cgroup);
            // All that is taken along of what restricts access is a program that is attached to the unit's own cgroup: where
            // there is none, a manager has nothing to tell, and takes long to say so. But the addresses of a slice are filtered
            // by the programs of the units in it.
            let programs = cgroup.programs();
            is_filtered |= programs.as_ref().is_some_and(|programs| programs.iter().any(Attach::filters_addresses));
            match &programs {
                Some(programs) if programs.is_empty() && !is_filtered => continue,
                Some(programs) if !programs.is_empty() => self.refuse_programs(&step, programs, wanted)?,
                _ => {}
            }
            // A user manager has not the privilege for more.
            let Some(unit) = step.unit.filter(|_| !step.user) else { continue };
            let may_leave = may_leave(&unit, wanted);
            match self.manager.bus() {
                Bus::System => held.add_access(&self.manager, &unit, may_leave)?,
                Bus::User(_) => {
                    let mut left = Held::default();
                    left.add_access(&*self.system_manager()?, &unit, may_leave)?;
                    if let (Some(property), false) = (left.access.first(), may_leave) {
                        let why = "a user manager has not the privilege to enforce it";
                        return Err(CannotCopy { property: property.to_owned(), unit, why }.into());
                    }
                }
            }
        }
        Ok(held)
    }

    /// The limits among that.
    pub(in crate::backend) fn held_limits(&self, from: &Membership, key: &SessionKey) -> Result<Limits, HeldError> {
        let mut held = Held::default();
        let path = from.v2.as_deref().filter(|_| self.locate(from).is_none()).unwrap_or_default();
        for step in held::steps(path, &format!("{}/{}", self.machine, key.slice())) {
            held.add_limits(&held::open(self.layout().v2(), from, &step.cgroup)?);
        }
        Ok(held.limits)
    }

    /// What somebody attached to a cgroup behind systemd's back cannot be taken along.
    fn refuse_programs(&self, step: &Step, programs: &[Attach], wanted: &Admission<'_>) -> Result<(), HeldError> {
        let has = match &step.unit {
            Some(unit) if !step.user => match self.manager.bus() {
                Bus::System => self.manager.properties(unit)?,
                Bus::User(_) => self.system_manager()?.properties(unit)?,
            },
            // A user manager has not the privilege to attach any.
            _ => BTreeMap::new(),
        };
        match held::unaccounted(programs, &has) {
            Some(program) if !step.unit_around().is_some_and(|unit| may_leave(unit, wanted)) => {
                Err(HeldError::Program { kind: program.word(), cgroup: step.cgroup.clone() })
            }
            _ => Ok(()),
        }
    }

    /// A launch that no living scope of its session will do for, as a session's first: a scope is started with the launcher
    /// in it.
    fn begin(
        &self,
        kept: &mut Option<Session>,
        wanted: &Admission<'_>,
        held: &Held,
        needs: &mut Needs,
    ) -> Result<Leaf, Unplaced> {
        self.limit_machine(&wanted.machine)?;
        let scope = wanted.key.scope(wanted.leaf.launch());
        let before = kept.as_ref().map_or_else(Limits::default, |session| session.held);
        let strictest = held::strictest(held::strictest(wanted.session, &before), &held.limits);
        let of_slice = held.access.add_to(slice_properties(wanted.key, &strictest));
        self.start_scope(&scope, wanted, of_slice, needs)?;
        let placed = self.prove_scope(&scope, wanted).and_then(|directory| {
            if kept.as_ref().is_none_or(|session| !session.group.v2().has("cgroup.procs")) {
                *kept = Some(self.open_session(wanted.key)?);
            }
            let session = kept.as_mut().expect("it was opened the line before");
            self.limit_session(session, wanted, held)?;
            Ok(directory)
        });
        let directory = match placed {
            Ok(directory) => directory,
            Err(error) => {
                // A scope whose only process was a zombie when it was attached never ends by itself.
                let directory = Cgroup::open(self.session_directory(wanted.key).join(&scope));
                if directory.is_ok_and(|directory| directory.populated().is_ok_and(|populated| !populated)) {
                    let _ = self.manager.stop(&scope);
                }
                return Err(error.into());
            }
        };
        let session = kept.as_mut().expect("a proved scope has an open session");
        session.scopes.insert(scope.clone(), needs.given());
        let leaf = self.make_leaf(session, directory, scope.clone(), wanted)?;
        match self.be_first(&leaf, &scope, wanted) {
            Ok(()) => Ok(leaf),
            Err(error) => Err(Unplaced { error, left: Some(Box::new(leaf)) }),
        }
    }

    /// Moves a launcher into the first leaf of a scope, and limits that.
    fn be_first(&self, leaf: &Leaf, scope: &str, wanted: &Admission<'_>) -> Result<(), AdmitError> {
        self.move_in(leaf, wanted.pid, wanted.pidfd)?;
        self.move_stragglers(leaf)?;
        // The launcher has left the scope's own cgroup, which may now give its children limits.
        self.hand_on(leaf, scope, &wanted.server)?;
        limit_leaf(leaf, wanted)
    }

    /// A further launch of a session whose scope lives; or the first one once more, over which its daemon died.
    fn join(
        &self,
        session: &mut Session,
        scope: (Cgroup, String),
        wanted: &Admission<'_>,
        held: &Held,
    ) -> Result<Leaf, Unplaced> {
        self.limit_machine(&wanted.machine)?;
        self.limit_session(session, wanted, held)?;
        let (directory, unit) = scope;
        let hands_on = suffice(Controllers::enabled(&directory)?, &wanted.server);
        let leaf = self.make_leaf(session, directory, unit.clone(), wanted)?;
        let placed = match hands_on {
            true => limit_leaf(&leaf, wanted).and_then(|()| self.move_in(&leaf, wanted.pid, wanted.pidfd)),
            false => self.be_first(&leaf, &unit, wanted),
        };
        let placed = placed.and_then(|()| self.prove_active(&unit));
        match placed {
            Ok(()) => Ok(leaf),
            Err(error) => {
                // A leaf with nobody in it goes now; the launcher may be in it, and then it goes with that.
                let left = leaf.remove().is_err().then(|| Box::new(leaf));
                Err(Unplaced { error, left })
            }
        }
    }

    /// Starts a scope, and the session's slice where that is not there. Where the unit that it should be bound to has ended
    /// meanwhile, it is bound to none.
    fn start_scope(
        &self,
        scope: &str,
        wanted: &Admission<'_>,
        of_slice: Properties,
        needs: &mut Needs,
    ) -> Result<(), AdmitError> {
        let slice = wanted.key.slice();
        let there = self.session_directory(wanted.key).exists();
        let mut beside = (!there).then_some((slice.clone(), of_slice));
        if needs.bound.is_some() {
            if let Some((slice, properties)) = beside.take() {
                self.begin_slice(&slice, properties)?;
            }
            match self.start_named(scope, wanted, None, needs) {
                Err(error) if error.is_unmet_dependency() => needs.bound = None,
                other => return placed_or_gone(other),
            }
        }
        placed_or_gone(self.start_named(scope, wanted, beside, needs))
    }

    /// Has a session's slice started; that it is there is success. Its job is not waited for: a scope in it has its cgroup
    /// made with the limits that it was given.
    fn begin_slice(&self, slice: &str, properties: Properties) -> Result<(), SystemdError> {
        match self.manager.begin(slice, properties.clone(), MAY_LACK) {
            Err(error) if error.exists() => {
                self.manager.reset_failed(slice)?;
                match self.manager.active_state(slice)?.as_str() {
                    // It may be on its way, where the answer to the first call was lost with its connection.
                    "inactive" => self.manager.begin(slice, properties, MAY_LACK).or_else(is_there),
                    _ => Ok(()),
                }
            }
            other => other,
        }
    }

    /// Starts a scope whose name may be that of a leftover.
    fn start_named(
        &self,
        scope: &str,
        wanted: &Admission<'_>,
        beside: Option<(String, Properties)>,
        needs: &Needs,
    ) -> Result<(), SystemdError> {
        match self.start_once(scope, wanted, beside.clone(), needs) {
            Err(error) if error.exists() => {
                if self.holds_launcher(scope, wanted) {
                    // The answer to the first call was lost with its connection.
                    return Ok(());
                }
                // What failed and was kept for people to see has the name; or the slice is there, if without a cgroup.
                let slice = wanted.key.slice();
                self.manager.reset_failed(scope)?;
                self.manager.reset_failed(&slice)?;
                let beside =
                    beside.filter(|_| self.manager.active_state(&slice).is_ok_and(|state| state == "inactive"));
                self.start_once(scope, wanted, beside, needs)
            }
            other => other,
        }
    }

    fn start_once(
        &self,
        scope: &str,
        wanted: &Admission<'_>,
        beside: Option<(String, Properties)>,
        needs: &Needs,
    ) -> Result<(), SystemdError> {
        let pidfd = wanted.pidfd.try_clone_to_owned().ok();
        let held = pidfd.filter(|_| !self.manager.lacks("PIDFDs")).map(|pidfd| Value::Held(Arc::new(pidfd)));
        let start = |who: &str, value: Value| {
            let properties = needs.add_to(scope_properties(&wanted.key.slice())).with(who, value);
            let beside = beside.as_ref().map(|(slice, properties)| (slice.as_str(), properties.clone()));
            match needs.bound {
                // The host's unit is not started for it, and that it is to be stopped soon is no reason to refuse.
                Some(_) => self.manager.start_alone(scope, properties, MAY_LACK),
                None => self.manager.start(scope, properties, beside, MAY_LACK),
            }
        };
        let by_number = || Value::Processes(vec![wanted.pid.unsigned_abs()]);
        match held {
            Some(held) => match start("PIDFDs", held) {
                Err(_) if self.manager.lacks("PIDFDs") => start("PIDs", by_number()),
                other => other,
            },
            None => start("PIDs", by_number()),
        }
    }

    fn holds_launcher(&self, scope: &str, wanted: &Admission<'_>) -> bool {
        let expected = self.cgroup_of(wanted.key, scope);
        Membership::of(wanted.pid).is_ok_and(|place| place.v2.as_deref() == Some(expected.as_str()))
    }

    /// A job that is done is no proof: a zombie attaches "successfully", and a scope can die the moment it starts.
    fn prove_scope(&self, scope: &str, wanted: &Admission<'_>) -> Result<Cgroup, AdmitError> {
        if has_exited(wanted.pidfd) {
            return Err(CgroupAdmitError::LauncherGone.into());
        }
        if !self.holds_launcher(scope, wanted) {
            let found = Membership::of(wanted.pid).map_err(|_| CgroupAdmitError::LauncherGone)?;
            if is_exiting(wanted.pidfd) {
                return Err(CgroupAdmitError::LauncherGone.into());
            }
            return Err(CgroupAdmitError::NotMoved { wanted: self.cgroup_of(wanted.key, scope), found }.into());
        }
        self.prove_active(scope)?;
        Ok(Cgroup::open(self.session_directory(wanted.key).join(scope))?)
    }

    /// A dead scope with a living process has no limits and no stop (systemd issue 36781).
    fn prove_active(&self, scope: &str) -> Result<(), AdmitError> {
        let start = Instant::now();
        loop {
            let state = self.manager.active_state(scope)?;
            match state.as_str() {
                "active" => return Ok(()),
                "activating" | "reloading" if start.elapsed() < ACTIVE_MAX => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => return Err(AdmitError::ScopeDied { unit: scope.to_owned(), state }),
            }
        }
    }

    fn make_leaf(
        &self,
        session: &Session,
        directory: Cgroup,
        unit: String,
        wanted: &Admission<'_>,
    ) -> Result<Leaf, AdmitError> {
        let cgroup = format!("{}/{}", self.cgroup_of(wanted.key, &unit), wanted.leaf.as_str());
        let scope = Group::open(&paths(directory.path().to_owned()))?;
        let group = scope.make_child(wanted.leaf.as_str())?;
        let above = Above {
            session: session.group.clone(),
            machine: session.machine.clone(),
            scope: Some(Scope { directory, unit, tally: session.tally.clone() }),
        };
        Ok(Leaf::new(wanted.leaf.clone(), group, above, cgroup))
    }

    /// Gives the machine's slice its limits, where it does not have them.
    fn limit_machine(&self, limits: &Limits) -> Result<(), AdmitError> {
        let mut last = lock(&self.machine_limits);
        let holds = || {
            let group = Group::open(&paths(self.root())).map_err(KnobError::from)?;
            group.verify_limits(limits)
        };
        if *last == Some(*limits) && self.root().exists() {
            let group = Group::open(&paths(self.root())).map_err(KnobError::from)?;
            return self.limit_living(MACHINE_SLICE, &group, limits);
        }
        let properties = slice_limits(limits).with("Description", Value::Text("What AI agents start".into()));
        match self.manager.start(MACHINE_SLICE, properties, None, MAY_LACK) {
            // It is there: somebody installed it, or an earlier daemon made it. What we were told to set counts, as far as
            // nothing ends for it.
            Err(error) if error.exists() => {
                if !self.root().exists() {
                    self.manager.start_installed(MACHINE_SLICE)?;
                }
                let group = Group::open(&paths(self.root())).map_err(KnobError::from)?;
                self.limit_living(MACHINE_SLICE, &group, limits)?;
            }
            other => {
                other?;
                holds()?;
            }
        }
        *last = Some(*limits);
        Ok(())
    }

    /// Gives a slice with processes in it these limits, as far as nothing ends for it.
    fn limit_living(&self, slice: &str, group: &Group, limits: &Limits) -> Result<(), AdmitError> {
        let how = (Pass::Both, Lowering::NotBelowUsage);
        let adjusted = group.adjust(limits, how, &[], |limits| self.set_slice(slice, group, limits));
        adjusted.error.map_or(Ok(()), Err)
    }

    /// Proves the session's limits; where its slice has others, because the configuration changed or a launcher comes
    /// from a stricter place, they are changed.
    fn limit_session(&self, session: &mut Session, wanted: &Admission<'_>, held: &Held) -> Result<(), AdmitError> {
        let slice = wanted.key.slice();
        let strictest = held::strictest(session.held, &held.limits);
        let limits = held::strictest(wanted.session, &strictest);
        self.limit_living(&slice, &session.group, &limits)?;
        session.held = strictest;
        if held.access.is_empty() {
            return Ok(());
        }
        let access = match session.access.take() {
            Some(access) => access,
            None => Access::of(&self.manager.properties(&slice)?),
        };
        let access = session.access.insert(access);
        let missing = held.access.beyond(access).map_err(|property| {
            let why = "the session was given another value by a launcher from another unit";
            HeldError::from(CannotCopy { property: property.to_owned(), unit: "its unit".into(), why })
        })?;
        if !missing.is_empty() {
            self.manager.set(&slice, missing.add_to(Properties::default()))?;
            access.extend(&missing);
        }
        Ok(())
    }
}

fn may_leave(unit: &str, wanted: &Admission<'_>) -> bool {
    wanted.allow_leave.iter().any(|glob| glob.matches(unit))
}

fn is_there(error: SystemdError) -> Result<(), SystemdError> {
    if error.exists() { Ok(()) } else { Err(error) }
}

fn placed_or_gone(started: Result<(), SystemdError>) -> Result<(), AdmitError> {
    match started {
        Err(error) if error.process_is_gone() => Err(CgroupAdmitError::LauncherGone.into()),
        other => Ok(other?),
    }
}

fn limit_leaf(leaf: &Leaf, wanted: &Admission<'_>) -> Result<(), AdmitError> {
    leaf.group().set_limits(&wanted.server)?;
    leaf.group().die_as_one()?;
    Ok(())
}

/// The scope ended between two steps of an admission: another generation is begun.
fn scope_died(error: &AdmitError) -> bool {
    match error {
        AdmitError::ScopeDied { .. } => true,
        AdmitError::Cgroup(CgroupAdmitError::Cgroup(error) | CgroupAdmitError::Knob(KnobError::Cgroup(error))) => {
            error.is_gone()
        }
        AdmitError::Systemd(error) => error.is_gone(),
        AdmitError::Cgroup(_) | AdmitError::Held(_) | AdmitError::Kin(_) => false,
    }
}
