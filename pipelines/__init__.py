"""What runs when: definitions, jobs, schedules, the rerun loop and the command line."""
