// The key of the person at the keyboard, where nothing says which one.
import { unhex } from '../protocols/bytes.js'
import { DEFAULT_KEY, listKeys, newKey } from './keys.js'

/** Of several keys the one called `default`, else the only one, else one that is made now. Public half. */
export async function founderKey(): Promise<Uint8Array> {
  const keys = await listKeys()
  const own = keys.find(({ name }) => name === DEFAULT_KEY) ?? (keys.length === 1 ? keys[0] : undefined)
  return unhex((own ?? (await newKey(DEFAULT_KEY))).publisher)
}
