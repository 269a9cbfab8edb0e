//! Becoming another user, once what only root may do is done.
//!
//! By way of the C library, which changes every thread of the process; the system call alone would change one.

use std::error::Error;
use std::ffi::CString;
use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgid, getuid, initgroups, setgid, setgroups, setuid};

use crate::config;

/// A user of this machine, looked up.
#[derive(Clone, Debug)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    /// Whether the system knows it by name, and so its further groups.
    is_known: bool,
}

/// Why the program cannot become another user.
#[derive(Debug)]
pub enum PrivilegeError {
    /// There is no such user.
    NoUser(String),
    /// There is no such group.
    NoGroup(String),
    /// A user by number, of whom the system does not know the group.
    NoGroupOf(String),
    /// The system's list could not be read.
    LookUp(Errno),
    /// Only root may.
    NotRoot(String),
    /// One of the steps failed.
    Change {
        /// Which.
        step: &'static str,
        /// Why.
        source: Errno,
    },
    /// The way back is still open.
    NotGone,
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => write!(f, "user: there is no user {name}"),
            Self::NoGroup(name) => write!(f, "user: there is no group {name}"),
            Self::NoGroupOf(name) => write!(f, "user: nobody is called {name}, so a group is needed: {name}:GROUP"),
            Self::LookUp(_) => f.write_str("user: cannot read the users of this machine"),
            Self::NotRoot(name) => write!(f, "user: only root can become {name}; start as root, or leave the key out"),
            Self::Change { step, .. } => write!(f, "user: {step} failed"),
            Self::NotGone => f.write_str("user: the rights of root could be had again"),
        }
    }
}

impl Error for PrivilegeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::LookUp(source) | Self::Change { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Account {
    /// Looks a user up, by name or else by number.
    ///
    /// # Errors
    /// When there is no such user or group.
    pub fn find(user: &config::User) -> Result<Self, PrivilegeError> {
        let name = user.name.to_string();
        let number = name.parse().ok().map(Uid::from_raw);
        let known = match (User::from_name(&name).map_err(PrivilegeError::LookUp)?, number) {
            (None, Some(number)) => User::from_uid(number).map_err(PrivilegeError::LookUp)?,
            (known, _) => known,
        };
        let group = user.group.as_deref().map(find_group).transpose()?;
        match (known, number) {
            (Some(known), _) => {
                Ok(Self { gid: group.unwrap_or(known.gid), name: known.name, uid: known.uid, is_known: true })
            }
            (None, Some(uid)) => {
                let gid = group.ok_or_else(|| PrivilegeError::NoGroupOf(name.clone()))?;
                Ok(Self { name, uid, gid, is_known: false })
            }
            (None, None) => Err(PrivilegeError::NoUser(name)),
        }
    }

    /// Numbers of user and group, for files that are to be theirs.
    pub fn ids(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Becomes this user for good, in every thread: groups first, since afterwards nothing is allowed any more.
    ///
    /// # Errors
    /// When the process may not. Some steps may have been done then; do not go on.
    pub fn become_it(&self) -> Result<(), PrivilegeError> {
        if (getuid(), geteuid(), getgid()) == (self.uid, self.uid, self.gid) {
            return Ok(());
        }
        let failed = |step| {
            move |source| match source {
                Errno::EPERM => PrivilegeError::NotRoot(self.name.clone()),
                source => PrivilegeError::Change { step, source },
            }
        };
        if self.is_known {
            // A name of the system has no zero byte.
            let name = CString::new(self.name.as_str()).map_err(|_| PrivilegeError::NoUser(self.name.clone()))?;
            initgroups(&name, self.gid).map_err(failed("initgroups"))?;
        } else {
            setgroups(&[self.gid]).map_err(failed("setgroups"))?;
        }
        setgid(self.gid).map_err(failed("setgid"))?;
        setuid(self.uid).map_err(failed("setuid"))?;
        if !self.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err(PrivilegeError::NotGone);
        }
        Ok(())
    }
}

fn find_group(name: &str) -> Result<Gid, PrivilegeError> {
    let found = Group::from_name(name).map_err(PrivilegeError::LookUp)?.map(|group| group.gid);
    found.or_else(|| name.parse().ok().map(Gid::from_raw)).ok_or_else(|| PrivilegeError::NoGroup(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, group: Option<&str>) -> Result<(u32, u32), String> {
        let user = config::User { name: name.into(), group: group.map(Into::into) };
        Account::find(&user).map(|account| account.ids()).map_err(|error| error.to_string())
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        assert_eq!(find("root", None), Ok((0, 0)));
        assert_eq!(find("0", None), Ok((0, 0)));
        assert_eq!(find("root", Some("4711")), Ok((0, 4711)));
        assert_eq!(find("987654", Some("root")), Ok((987_654, 0)));
        assert!(find("987654", None).is_err_and(|error| error.contains("987654:GROUP")));
        assert!(find("no-such-user", None).is_err_and(|error| error.contains("no user no-such-user")));
        assert!(find("root", Some("no-such-group")).is_err_and(|error| error.contains("no group no-such-group")));
    }

    #[test]
    fn whoever_one_is_already_needs_no_rights() {
        let user = config::User { name: getuid().to_string().into(), group: Some(getgid().to_string().into()) };
        Account::find(&user).and_then(|account| account.become_it()).expect("nothing changes");
    }
}
