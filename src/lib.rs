//! pinfold keeps every MCP server that an AI agent starts inside a cgroup that belongs to the agent's session.
pub mod argv;
pub mod config;
pub mod lifecycle;
pub mod limits;
pub mod naming;
pub mod outcome;
pub mod policy;
pub mod session;
pub mod timespan;
