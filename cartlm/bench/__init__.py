"""Speed, memory and the machine they were measured on. Each quantity carries its unit in its name."""
