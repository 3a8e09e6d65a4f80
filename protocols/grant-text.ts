// What a grant allows, as a person says it.
import type { Standing } from './authority.js'
import type { Body } from './kinds.js'

type Grant = Pick<Body<'grant'>, 'scope' | 'from' | 'expires'>

const iso = (ms: number): string => new Date(ms).toISOString()

/** `publish chutes called web-* with at most 2 CPUs in all until 2031-05-01T00:00:00.000Z`. */
export function grantText(role: Standing['role'], { scope = {}, from = 0, expires }: Grant, nowMs: number): string {
  const { chutes = ['*'], labels = {}, cpu, memory, disk, instances, rights = [] } = scope
  const names = chutes.includes('*') ? 'any chute' : `chutes called ${chutes.join(', ') || 'nothing at all'}`
  const where = Object.entries(labels).map(([label, value]) => `${label}=${value}`)
  const most = [
    ...(cpu === undefined ? [] : [`${cpu / 1000} CPUs`]),
    ...(memory === undefined ? [] : [`${Math.floor(memory / 1024 ** 2)} MiB of memory`]),
    ...(disk === undefined ? [] : [`${Math.floor(disk / 1024 ** 2)} MiB of images`]),
    ...(instances === undefined ? [] : [`${instances} instances`]),
  ]
  return [
    `${role === 'admin' ? 'grant and revoke, and ' : ''}publish ${names}`,
    ...(where.length === 0 ? [] : [`on APs with ${where.join(' and ')}`]),
    ...(most.length === 0 ? [] : [`with at most ${most.join(', ')} in all`]),
    ...(rights.includes('*')
      ? ['with every right']
      : rights.length === 0
        ? []
        : [`with the rights ${rights.join(', ')}`]),
    ...(from <= nowMs ? [] : [`from ${iso(from)}`]),
    ...(expires === 0 ? [] : [`until ${iso(expires)}`]),
    ...(expires === 0 || nowMs <= expires ? [] : ['(which is over)']),
  ].join(' ')
}
