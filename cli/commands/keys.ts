// `keys`: publisher keys of this user, and copies of them and of the mesh key.
import type { Command } from 'commander'
import { exportKey, importKey } from '../key-copies.js'
import { listKeys, newKey, showKey } from '../keys.js'
import { forNode, withExample } from '../options.js'
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
    .argument('<key>', 'name, SSH key file, or agent')
    .description('how the mesh knows a key')
    .option('--json', 'print one JSON document')
  withExample(showing, 'dropmesh keys show alice').action(async (name: string, options: Printed) => {
    const key = await showKey(name)
    if (options.json) printJson(key)
    else print(key.publisher)
  })
  const exporting = keys
    .command('export')
    .argument('<file>', 'where to write it')
    .description('copy a key into a file that a passphrase locks')
    .option('--key <name>', 'publisher key (default: the only one you have)')
    .option('--mesh', 'the owner key of the mesh, from the AP that has it')
    .option('--remove', 'and take the mesh key off this AP, which goes on without it')
    .option('--yes', 'do not ask before the mesh key is removed')
  forNode(exporting, 'dropmesh keys export alice.backup --key alice').action(exportKey)
  const importing = keys
    .command('import')
    .argument('<file>', 'that "keys export" wrote')
    .description('take a key back from such a file')
    .option('--name <name>', 'name for the publisher key (default: the one it had)')
    .option('--mesh', 'put the owner key of the mesh on this AP')
  forNode(importing, 'dropmesh keys import alice.backup').action(importKey)
}
