// `keys`: publisher keys of this user.
import type { Command } from 'commander'
import { listKeys, newKey, showKey } from '../keys.js'
import { withExample } from '../options.js'
import { type Printed, print, printJson, printTable } from '../output.js'

export function addKeys(program: Command): void {
  const keys = program.command('keys').description('publisher keys, kept in your own data folder with mode 0600')
  const making = keys
    .command('new')
    .argument('<name>')
    .description('make a key')
    .option('--json', 'print one JSON document')
  withExample(making, 'dropmesh keys new alice').action(async (name: string, options: Printed) => {
    const key = await newKey(name)
    if (options.json) printJson(key)
    else
      print(
        `key ${key.name}, publisher ${key.publisher}\nkept in ${key.path}; back it up, nobody else can sign for its chutes`,
      )
  })
  const listing = keys.command('ls').description('list keys').option('--json', 'print one JSON document')
  withExample(listing, 'dropmesh keys ls').action(async (options: Printed) => {
    const all = await listKeys()
    if (options.json) printJson(all)
    else
      printTable(
        ['NAME', 'PUBLISHER'],
        all.map(({ name, publisher }) => [name, publisher]),
      )
  })
  const showing = keys
    .command('show')
    .argument('<name>')
    .description('show a key')
    .option('--json', 'print one JSON document')
  withExample(showing, 'dropmesh keys show alice').action(async (name: string, options: Printed) => {
    const key = await showKey(name)
    if (options.json) printJson(key)
    else print(key.publisher)
  })
}
