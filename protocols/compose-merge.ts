// What a service is that extends another: https://github.com/compose-spec/compose-spec/blob/main/13-merge.md
import { type Placed, Value } from './compose-reader.js'
import type { ReadService } from './compose-service.js'

const isPlaced = (value: unknown): value is Placed<unknown> =>
  typeof value === 'object' && value !== null && 'at' in value && value.at instanceof Value
const isMap = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !isPlaced(value)
const isListOfParts = (value: unknown): value is Placed<unknown>[] => Array.isArray(value) && value.every(isPlaced)

/** What of two parts may be there once: the path of a mount, the name of a limit, or all that is said. */
function identityOf(is: unknown): unknown {
  const { path, file, name, container, host } = (typeof is === 'object' ? is : {}) as Record<string, unknown>
  if (typeof is === 'object' && is !== null && 'protocol' in is) return JSON.stringify(is)
  return path ?? file ?? name ?? (host === undefined ? undefined : container) ?? JSON.stringify(is)
}

/** A service over what it extends: maps key by key, lists one after the other, and of anything else its own. */
export const extended = (base: ReadService, own: ReadService): ReadService => {
  const { extends: _, ...rest } = base
  return merge(rest, own) as ReadService
}

function merge(base: unknown, own: unknown): unknown {
  if (own === undefined) return base
  if (isPlaced(base) && isPlaced(own) && isMap(base.is) && isMap(own.is))
    return { at: own.at, is: merge(base.is, own.is) }
  if (isListOfParts(base) && isListOfParts(own)) {
    const replaced = new Set(own.map(({ is }) => identityOf(is)))
    return [...base.filter(({ is }) => !replaced.has(identityOf(is))), ...own]
  }
  if (!isMap(base) || !isMap(own)) return own
  const all = new Map(Object.entries(base))
  for (const [key, value] of Object.entries(own)) all.set(key, merge(all.get(key), value))
  return Object.fromEntries(all)
}
