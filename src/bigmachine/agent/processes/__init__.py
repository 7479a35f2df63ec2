"""The processes of a host: how machines are forked, spoken to and waited for, and how nothing of them stays."""
