# osModa node as a NixOS module. A skeleton: it installs the same units that the
# real-host tests run (deploy/systemd), with the programs taken from a package.
# It has no installer and no options for the daemons' configuration yet; those are
# the files /etc/osmoda/<daemon>.toml.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.osmoda;

  # The rendered units name /usr/local/bin; here the programs come from the package.
  units = pkgs.runCommand "osmoda-units" { } ''
    mkdir -p $out/lib/systemd/system
    for unit in ${../deploy/systemd}/*.service ${../deploy/systemd}/*.socket ${../deploy/systemd}/*.target; do
      substitute "$unit" "$out/lib/systemd/system/$(basename "$unit")" \
        --replace-quiet /usr/local/bin ${cfg.package}/bin
    done
  '';

  # Confined daemons, as deploy/systemd/osmoda.sysusers.conf lists them. watch is root.
  users = [ "agentd" "mesh" "fleetd" ];
in
{
  options.services.osmoda = {
    enable = lib.mkEnableOption "the osModa node daemons";

    package = lib.mkOption {
      type = lib.types.package;
      description = "Package with osmoda-node, osmoda-guard and agentctl in its bin folder.";
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open UDP port 18800 for the mesh.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    systemd.packages = [ units ];
    # NixOS does not read [Install] of packaged units.
    systemd.targets.osmoda.wantedBy = [ "multi-user.target" ];
    systemd.sockets = lib.genAttrs (map (name: "osmoda-${name}") (users ++ [ "watch" ])) (_: {
      wantedBy = [ "sockets.target" ];
    });

    users.groups = { osmoda = { }; } // lib.genAttrs (map (name: "osmoda-${name}") users) (_: { });
    users.users = lib.listToAttrs (map (name: {
      name = "osmoda-${name}";
      value = {
        isSystemUser = true;
        group = "osmoda-${name}";
        extraGroups = [ "osmoda" ];
        home = "/var/lib/osmoda/${name}";
      };
    }) users);

    systemd.tmpfiles.packages = [
      (pkgs.runCommand "osmoda-tmpfiles" { } ''
        install -Dm644 ${../deploy/systemd/osmoda.tmpfiles.conf} $out/lib/tmpfiles.d/osmoda.conf
      '')
    ];

    # watch refuses a closure that no trusted key has signed; so does the store.
    nix.settings.require-sigs = true;

    networking.firewall.allowedUDPPorts = lib.mkIf cfg.openFirewall [ 18800 ];
  };
}
