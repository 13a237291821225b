"""What tests of several areas share: clean logs, schema checks, daemons as processes."""
