// The clock that leases are measured on. A file of its own, since the watchdog loads nothing else.
import { uptime } from 'node:os'

/**
 * Milliseconds since the machine started, sleep included, in steps of ten: /proc/uptime, which is CLOCK_BOOTTIME. Every
 * process on the machine reads the same.
 */
export const bootClock = (): number => Math.round(uptime() * 1000)
