"""Pictures that leave the agent: boxes drawn, places made unrecognisable, what is kept and for how long."""
