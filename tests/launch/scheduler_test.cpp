// What --ms_scheduler adds.
