// That every key of the Compose schema has its row in README.md, and that the row is true.
import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { BENEATH, judge, KEYS, type Verdict } from './compose-keys.js'

const VERDICTS = ['runs', 'ignored', 'refused']

/** The rows of README.md, by object and key. */
function rowsOf(readme: string): Map<string, { verdict: Verdict; why: string }> {
  const rows = new Map<string, { verdict: Verdict; why: string }>()
  for (const line of readme.split('\n')) {
    const [, where = '', keys = '', verdict = '', why = ''] = line.split('|').map((cell) => cell.trim())
    if (!VERDICTS.includes(verdict)) continue
    for (const [, key] of keys.matchAll(/`([^`]+)`/g)) {
      assert.not(rows.has(`${where}, ${key}`), `README.md has ${key} of ${where} twice`)
      rows.set(`${where}, ${key}`, { verdict: verdict as Verdict, why })
    }
  }
  return rows
}

test('every key of the schema runs, is passed over with a note or is refused, as README.md says of it', () => {
  const rows = rowsOf(readFileSync(new URL('../../../README.md', import.meta.url), 'utf8'))
  for (const [where, [, keys]] of Object.entries(KEYS)) {
    for (const key of Object.keys(keys)) {
      const row = rows.get(`${where}, ${key}`)
      assert.ok(row, `README.md lacks ${key} of ${where}`)
      const { verdict, why } = judge(where, key)
      assert.is(verdict, row.verdict, `${key} of ${where}: ${why}`)
      // A key that runs may have a remark for people.
      if (verdict !== 'runs') assert.is(row.why, why, `${key} of ${where}`)
      rows.delete(`${where}, ${key}`)
    }
  }
  assert.equal([...rows.keys()], [], 'README.md has rows of keys that there are not')
})

test('of what stands under keys that are refused or passed over, nothing is read', () => {
  for (const [where, keys] of Object.entries(BENEATH))
    for (const key of keys) assert.is.not(judge(where, key).verdict, 'runs', `${key} of ${where}`)
})

test.run()
