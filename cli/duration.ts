// Spans of time as people type them.
import { MeshError } from '../protocols/error.js'

const UNITS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Reads `30s`, `10m`, `12h`, `7d` as milliseconds. @throws MeshError `duration` naming the option */
export function parseDuration(text: string, option: string): number {
  const match = /^(\d{1,6})([smhd])$/.exec(text)
  if (match === null) throw new MeshError('duration', `${option} "${text}": write it as 30s, 10m, 12h or 7d`)
  return Number(match[1]) * UNITS[match[2]!]!
}
